"""Where examples come from: each reader returns `({split: (x, y)}, class names or None)` as its source has them."""

import difflib
import pathlib

import numpy as np

from tf_reweight import errors, extras
from tf_reweight.data.archives import read_npz
from tf_reweight.files import as_path

SPLITS = ("train", "validation", "test")
# Optical Recognition of Handwritten Digits, the test part (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY
# 4.0), the same images and order as scikit-learn's `load_digits`.
_DIGITS = pathlib.Path(__file__).parent / "digits.npz"
DIGITS_WHITE = 16.0
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def has_own_place(name):
    """Whether a name is of data that tensorflow-datasets has nothing to do with: the embedded set, a file, a path."""
    path = as_path("name", name)
    return name == "digits" or path.suffix == ".npz" or _is_explicit(name, path) and path.is_dir()


def _is_explicit(name, path):
    """Whether a name can only be a path, and no name of tensorflow-datasets."""
    return isinstance(name, pathlib.Path) or str(name).startswith((".", "~")) or path.is_absolute()


def reader(name, data_dir, image_size):
    """The function that reads `name`; refuses, before anything is read, what no source can be."""
    if not isinstance(name, (str, pathlib.Path)) or not str(name):
        raise TypeError(errors.message("`name` must be a data set's name or a path.", "For example 'digits'.", name=name))
    path = as_path("name", name)
    array_source = name == "digits" or path.suffix == ".npz"
    if array_source and image_size is not None:
        raise ValueError(
            errors.message(
                "`image_size` is for image folders and tensorflow-datasets.", "Leave it out.", name=name, image_size=image_size
            )
        )
    if name == "digits":
        return _read_digits
    if path.suffix == ".npz":
        return lambda: (read_npz(path), None)
    # A name of tensorflow-datasets wins over a folder that happens to be called so; "./mnist" is always the folder.
    if not _is_explicit(name, path):
        known = _tfds_names(data_dir)
        if name.split("/")[0].split(":")[0] in known:
            return lambda: _read_tfds(name, data_dir, image_size)
    if path.is_dir():
        return lambda: _read_folder(path, image_size)
    if path.is_file():
        is_code = path.suffix == ".py"
        fix = f"Name the function that loads the data: {name}:load." if is_code else "Save arrays with numpy.savez."
        raise ValueError(errors.message("Expected an .npz file or a folder of images.", fix, name=name))
    if _is_explicit(name, path) or len(path.parts) > 1:
        raise FileNotFoundError(errors.message("Expected an existing .npz file or folder.", "Check the path.", name=name))
    near = difflib.get_close_matches(name, ["digits", *known], n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    fix = f"{hint}Valid: 'digits', any tensorflow-datasets name, a path to an .npz file or to a folder of images."
    if not known:
        extras.check("tensorflow_datasets", f"A data set by its name, as {name!r} may be,")
    raise ValueError(errors.message("Expected a known data set.", fix, name=name))


def _read_digits():
    with np.load(_DIGITS, allow_pickle=False) as archive:
        return {"train": (archive["x"][..., None].astype("float32"), archive["y"].astype("int64"))}, None


def _read_folder(root, image_size):
    folders = _subfolders(root)
    if "train" in folders:
        for folder in folders:
            if folder not in SPLITS:
                raise ValueError(errors.unknown(f"split of {str(root)!r}", folder, SPLITS))
        split_folders = {split: root / split for split in folders}
    else:
        split_folders = {"train": root}
    class_names = _subfolders(split_folders["train"])
    if not class_names:
        raise ValueError(
            errors.message(
                "Expected one folder of images per class.", "Put them in <class>/*.png.", name=str(split_folders["train"])
            )
        )
    files = {split: _class_files(folder, class_names) for split, folder in split_folders.items()}
    images = {split: [_decode(path, image_size) for path, _ in entries] for split, entries in files.items()}
    _check_same_size(files, images)
    colour = any(image.shape[-1] == 3 for split in images.values() for image in split)
    splits = {}
    for split, entries in files.items():
        x = np.stack([np.repeat(image, 3, -1) if colour and image.shape[-1] == 1 else image for image in images[split]])
        splits[split] = (x, np.array([label for _, label in entries], "int32"))
    return splits, class_names


def _subfolders(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_files(folder, class_names):
    """List of `(path, label)`, in the order of classes and file names."""
    entries = []
    for name in _subfolders(folder):
        if name not in class_names:
            raise ValueError(errors.unknown(f"class of {str(folder)!r}", name, class_names))
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES and _is_image(path))
        if not paths:
            fix = f"Put images ({', '.join(_IMAGE_SUFFIXES)}) into it, or remove it."
            raise ValueError(errors.message("Expected images in every class folder.", fix, folder=str(folder / name)))
        entries += [(path, class_names.index(name)) for path in paths]
    if not entries:
        raise ValueError(errors.message("Expected class folders in every split.", "Fill it, or remove it.", folder=str(folder)))
    return entries


def _is_image(path):
    """Whether a path is a file, or a link that leads nowhere: whoever reads it says so, and it is not left out in silence."""
    return path.is_file() or path.is_symlink() and not path.exists()


def _decode(path, image_size):
    """uint8 `(height, width, 1 or 3)`; transparency is dropped."""
    import tensorflow as tf

    try:
        image = tf.io.decode_image(tf.io.read_file(str(path)), expand_animations=False)
    except tf.errors.OpError as error:
        raise ValueError(
            errors.message("Expected an image that can be decoded.", "Replace or remove the file.", file=str(path))
        ) from error
    image = image[..., : 3 if image.shape[-1] >= 3 else 1]
    return (image if image_size is None else _resized(image, image_size)).numpy()


def _resized(image, image_size):
    import tensorflow as tf

    return tf.saturate_cast(tf.round(tf.image.resize(image, image_size, antialias=True)), image.dtype)


def _check_same_size(files, images):
    first = images["train"][0].shape[:2]
    for split, entries in files.items():
        for (path, _), image in zip(entries, images[split]):
            if image.shape[:2] != first:
                fix = f"Pass `image_size`, for example {list(first)}."
                raise ValueError(
                    errors.message("Expected images of one size.", fix, file=str(path), size=image.shape[:2], others=first)
                )


def _tfds_names(data_dir):
    """What tensorflow-datasets can build, and what stands prepared in `data_dir`, without asking the network."""
    if data_dir is None and not extras.is_installed("tensorflow_datasets"):
        return []
    tfds = extras.load("tensorflow_datasets", "`data_dir`")
    names = tfds.list_builders(with_community_datasets=False)
    if data_dir is None:
        return names
    root = as_path("data_dir", data_dir)
    if not root.is_dir():
        # tensorflow-datasets would make the folder and download: with a mistyped path that costs gigabytes.
        fix = "Check the path, or create the folder to download into it."
        raise FileNotFoundError(errors.message("`data_dir` must be an existing folder.", fix, data_dir=str(data_dir)))
    return [*names, *_subfolders(root)]


def _read_tfds(name, data_dir, image_size):
    tfds = extras.load("tensorflow_datasets", f"The data set {name!r}")
    data_dir = None if data_dir is None else str(pathlib.Path(data_dir).expanduser())
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    class_names = _tfds_classes(tfds, name, builder.info, image_size)
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except OSError as error:
            fix = "Check the network, or pass `data_dir`, a folder in which it is prepared."
            raise OSError(errors.message("The data set could not be downloaded.", fix, name=name, data_dir=data_dir)) from error
    available = [split for split in SPLITS if split in builder.info.splits]
    if "train" not in available:
        found = sorted(builder.info.splits)
        raise ValueError(errors.message("Expected a split named 'train'.", "Use another data set.", name=name, splits=found))
    splits = {split: _tfds_arrays(builder, split, image_size) for split in available}
    if "test" not in splits and "validation" in splits:
        # The public figures of such sets (ImageNet) are on "validation": it plays the test, and ours comes from training.
        splits["test"] = splits.pop("validation")
    return splits, class_names


def _tfds_classes(tfds, name, info, image_size):
    """Class names, or None for plain integer labels; refuses what is not one input tensor with one label."""
    keys = info.supervised_keys
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        fix = "Use one with an input and a label, or save your own pairs as .npz."
        raise ValueError(
            errors.message("Expected a data set with labels (one input, one label).", fix, name=name, supervised_keys=keys)
        )
    feature, label = (info.features[key] for key in keys)
    if label.shape != () or not (np.issubdtype(label.np_dtype, np.integer) or label.np_dtype == np.bool_):
        raise ValueError(
            errors.message("Expected one class label per example.", "Use a classification set.", name=name, label=label)
        )
    # `shape` of a dictionary of features is a dictionary: such inputs are not one tensor.
    if not isinstance(feature.shape, tuple) or not feature.shape or not np.issubdtype(feature.np_dtype, np.number):
        fix = "Text, audio files and dictionaries of features must be turned into arrays first (.npz)."
        raise ValueError(errors.message("Expected inputs that are one tensor of numbers.", fix, name=name, feature=feature))
    if None in feature.shape and image_size is None:
        raise ValueError(
            errors.message(
                "Expected inputs of one size.", "Pass `image_size`, for example [96, 96].", name=name, shape=feature.shape
            )
        )
    if image_size is not None and not isinstance(feature, tfds.features.Image):
        raise ValueError(errors.message("`image_size` is for images.", "Leave it out.", name=name, image_size=image_size))
    return list(label.names) if isinstance(label, tfds.features.ClassLabel) else None


def _tfds_arrays(builder, split, image_size):
    """One split as two arrays, in the order in which it is stored."""
    import tensorflow as tf

    pairs = builder.as_dataset(split=split, as_supervised=True, shuffle_files=False)
    if image_size is not None:
        pairs = pairs.map(lambda image, label: (_resized(image, image_size), label), num_parallel_calls=tf.data.AUTOTUNE)
    # One batch of everything: 60,000 images in a few seconds, against a minute one by one.
    return next(pairs.batch(builder.info.splits[split].num_examples).as_numpy_iterator())
