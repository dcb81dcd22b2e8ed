"""Small classifiers to start from, and the user's own `.keras` file."""

import io
import pathlib
import tempfile
import warnings
import zipfile

import h5py
import keras
import numpy as np

from tf_reweight import errors, files
from tf_reweight.checks import check_integer, is_integer
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.own_parts import lost_names, parts_by_name
from tf_reweight.records import plain

L = keras.layers


def names():
    """Names `build` and `load` know.

    Example:
        >>> names()
        ['bn_cnn', 'ds_cnn', 'lenet300_100', 'lenet5', 'resnet20', 'small_cnn']
    """
    return sorted(_BUILDERS)


def build(name, input_shape=None, num_classes=10):
    """A new classifier with random weights; its output are logits `(batch, num_classes)`.

    Logits rather than probabilities: an int8 file spends its 256 steps on what tells classes apart.

    Args:
        name: `"lenet5"` (Caffe's: 20-50-500-10, 430,500 weights on MNIST), `"lenet300_100"` (266,200 on MNIST), `"resnet20"`
            (CIFAR's), `"bn_cnn"` (four normalized convolutions, quick to train), `"ds_cnn"` (depthwise separable, for phones)
            or `"small_cnn"` (8x8 images and up).
        input_shape: `(height, width, channels)`; default: what the name was made for.
        num_classes: number of classes, >= 2.

    Returns:
        A functional `keras.Model` with named layers, not compiled.

    Raises:
        ValueError: for an unknown name, or an input that is no image or too small.

    Example:
        >>> build("lenet5").count_params()
        431080
    """
    if name not in _BUILDERS:
        raise ValueError(errors.unknown("model", name, names()))
    make, default, smallest = _BUILDERS[name]
    shape = tuple(default if input_shape is None else input_shape)
    if len(shape) != 3 or not all(is_integer(n) and n > 0 for n in shape) or min(shape[:2]) < smallest:
        raise ValueError(
            errors.message(
                f"{name!r} takes images (height, width, channels) of at least {smallest} x {smallest}.",
                f"It was made for {default}; choose another of {names()}, or resize the images.",
                input_shape=shape,
            )
        )
    check_integer("num_classes", num_classes, 2, fix="Count the classes.")
    inputs = keras.Input(plain(shape), name="image")
    return keras.Model(inputs, L.Dense(int(num_classes), name="logits")(make(inputs)), name=name)


def load(name_or_path, input_shape=None, num_classes=None, custom_objects=None):
    """A model of `build` by its name, or a `.keras` file by its path.

    Args:
        name_or_path: a name, or the path of a file that ends in `.keras`.
        input_shape: for a name: the shape to build for. Of a file it is what must fit.
        num_classes: the same, for the outputs.
        custom_objects: of a file: its own classes and functions by name, as `keras.saving.load_model` takes them.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for an unknown name, a file that cannot be read, or a model that does not fit.
    """
    text = str(name_or_path)
    if not isinstance(name_or_path, pathlib.Path) and pathlib.Path(text).suffix == "" and "/" not in text:
        return build(text, input_shape, 10 if num_classes is None else num_classes)
    path = files.as_path("model", text)
    if path.suffix != ".keras":
        fix = f"Save it with model.save('model.keras'), or use one of {names()}."
        raise ValueError(errors.message("A model file must end in .keras.", fix, model=text))
    files.check_is_file(path, "The model file", model=text)
    if not zipfile.is_zipfile(path):
        fix = "It is another format, or was cut off: save or copy it anew."
        raise ValueError(errors.message("The model file must be a whole .keras archive.", fix, model=text))
    model = _read(path, custom_objects)
    _check_fit(model, text, input_shape, num_classes)
    return model


# The part of a `.keras` archive that holds the weights.
_WEIGHTS = "model.weights.h5"


def _read(path, custom_objects):
    try:
        with warnings.catch_warnings():
            # Every training begins with a fresh optimizer, so that the state of one that was saved unused is not missed.
            warnings.filterwarnings("ignore", message="(?s)A total of 1 objects could not be loaded.*keras.src.optimizers")
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            return keras.saving.load_model(path, custom_objects=custom_objects)
    except Exception as error:  # Keras raises whatever its parts raise: zip, JSON, shape and type errors alike.
        damage = _damage_of(path)
        if damage is not None:
            fix = "It was damaged or put together by other means: save or copy it anew."
            raise ValueError(errors.message(f"The model file must be whole, and {damage}.", fix, model=str(path))) from error
        fix = (
            "Custom layers must be registered with keras.saving.register_keras_serializable, and imported first; commands "
            "import them by --import FILE.py."
        )
        if "objects could not be loaded" in str(error):
            fix = "Its weights are those of another model, or a custom layer builds others than were saved: save it anew."
        expected = f"The model file must load with keras.saving.load_model; it says: {errors.said_by(error)[:300]}."
        raise ValueError(errors.message(expected, fix, model=str(path))) from error


def _damage_of(path):
    """What is damaged or missing in a `.keras` archive, in words; None where all parts are whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad, names = archive.testzip(), archive.namelist()
            if bad is not None:
                return f"its part {bad} is not as it was written"
            missing = [part for part in ("config.json", _WEIGHTS) if part not in names]
            if missing:
                return f"it has no {missing[0]}"
            with archive.open(_WEIGHTS) as weights, h5py.File(io.BytesIO(weights.read()), "r"):
                return None
    except zipfile.BadZipFile:
        return "it is no archive"
    except OSError:
        return f"its part {_WEIGHTS} cannot be read"


def copied(model):
    """A model of the same class with the same weights that shares nothing with the given one; not compiled.

    It goes through a file, as the models of a run's stages do, so that what cannot be read back is found at once.

    Raises:
        ValueError: for a model that cannot be saved or read back.
    """
    parts, lost = parts_by_name(model), lost_names(model)
    if lost:
        names = ", ".join(sorted({name for names in lost.values() for name in names}))
        fix = "Write it as a function with `def`, or as a layer of your own that is registered."
        expected = f"A lambda in a Lambda layer must not read from its module ({names}): a file holds its code alone."
        raise ValueError(errors.message(expected, fix, layers=list(lost)[:5]))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        try:
            with files.said(path, files.OF_TEMPORARY):
                model.save(path)
            # The user's own model, written a moment ago: functions in it are the user's.
            copy = keras.saving.load_model(path, custom_objects=parts, compile=False, safe_mode=False)
        except files.NotWritten:
            raise
        except Exception as error:  # Keras raises whatever the model's parts raise
            fix = "Give layers of your own a `get_config`, and register them with keras.saving.register_keras_serializable."
            expected = f"The model must be one that Keras saves and loads again; it says: {_reason(error)}"
            raise ValueError(errors.message(expected.rstrip(".") + ".", fix, model=model.name)) from error
    for weight, own in zip(copy.weights, model.weights):
        if not np.array_equal(as_numpy(weight), as_numpy(own), equal_nan=True):
            fix = "A layer of its class does not save all of its weights, or its `build` differs."
            raise ValueError(errors.message("The model must come back from its file with its weights.", fix, weight=own.path))
    return copy


def _reason(error):
    """What Keras says, and what it began with where that was another error, in a line."""
    first = error
    while (earlier := first.__cause__ or (None if first.__suppress_context__ else first.__context__)) is not None:
        first = earlier
    said = dict.fromkeys(errors.said_by(found)[:300] for found in (error, first))
    return ". It began with: ".join(said)


def _check_fit(model, text, input_shape, num_classes):
    for what, wanted in (("input", input_shape), ("output", num_classes)):
        tensors = getattr(model, f"{what}s", None)  # a subclassed model has none
        if wanted is None or tensors is None or len(tensors) != 1:
            continue
        shape = tuple(tensors[0].shape[1:])
        wanted = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        if len(shape) != len(wanted) or any(have not in (None, want) for have, want in zip(shape, wanted)):
            raise ValueError(
                errors.message(
                    f"The model's {what} must have the data's shape {wanted}.", "Choose data or model to match.",
                    model=text, shape=shape,
                )
            )  # fmt: skip


def _lenet5(x):
    for number, filters in enumerate((20, 50), 1):
        x = L.Conv2D(filters, 5, activation="relu", name=f"conv{number}")(x)
        x = L.MaxPooling2D(name=f"pool{number}")(x)
    return L.Dense(500, activation="relu", name="dense1")(L.Flatten(name="flatten")(x))


def _lenet300_100(x):
    x = L.Flatten(name="flatten")(x)
    for number, units in enumerate((300, 100), 1):
        x = L.Dense(units, activation="relu", name=f"dense{number}")(x)
    return x


def _small_cnn(x):
    for number, filters in enumerate((24, 32), 1):
        x = L.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    x = L.MaxPooling2D(name="pool")(x)
    return L.Dense(64, activation="relu", name="dense1")(L.Flatten(name="flatten")(x))


def _normalized(x, name, activate=True):
    # Keras' momentum of 0.99 needs thousands of steps before validation means anything.
    x = L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x) if activate else x


def _conv(x, filters, size, name, strides=1, activate=True):
    x = L.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)(x)
    return _normalized(x, name, activate)


def _resnet20(x):
    """He et al. 2016 (arXiv 1512.03385), section 4.2, with 1x1 convolutions where the shape changes."""
    x = _conv(x, 16, 3, "stem")
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in range(1, 4):
            name, strides = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            y = _conv(x, filters, 3, f"{name}_conv1", strides)
            y = _conv(y, filters, 3, f"{name}_conv2", activate=False)
            if strides > 1:
                x = _conv(x, filters, 1, f"{name}_shortcut", strides, activate=False)
            x = L.ReLU(name=f"{name}_out")(L.Add(name=f"{name}_add")([x, y]))
    return L.GlobalAveragePooling2D(name="pool")(x)


def _bn_cnn(x):
    for number, (filters, strides) in enumerate(((16, 2), (32, 2), (32, 1), (64, 2)), 1):
        x = _conv(x, filters, 3, f"conv{number}", strides)
    return L.GlobalAveragePooling2D(name="pool")(x)


def _ds_cnn(x):
    """A strided convolution and six depthwise separable ones, after MobileNet (arXiv 1704.04861)."""
    x = _conv(x, 32, 3, "stem", 2)
    for number, (filters, strides) in enumerate(((64, 1), (64, 1), (96, 2), (96, 1), (128, 1), (128, 1)), 1):
        x = L.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"depthwise{number}")(x)
        x = _conv(_normalized(x, f"depthwise{number}"), filters, 1, f"pointwise{number}")
    return L.GlobalAveragePooling2D(name="pool")(x)


# name -> function from image to features, the input it was made for, the smallest side it takes
_BUILDERS = {
    "lenet5": (_lenet5, (28, 28, 1), 16),
    "lenet300_100": (_lenet300_100, (28, 28, 1), 1),
    "resnet20": (_resnet20, (32, 32, 3), 8),
    "bn_cnn": (_bn_cnn, (28, 28, 1), 8),
    "ds_cnn": (_ds_cnn, (28, 28, 1), 8),
    "small_cnn": (_small_cnn, (8, 8, 1), 2),
}
