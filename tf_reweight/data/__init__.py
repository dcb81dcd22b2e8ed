"""Labelled arrays in three splits, from an embedded set, tensorflow-datasets, an .npz file or a folder of images."""

import dataclasses

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_fraction, check_integer, is_sequence
from tf_reweight.data import sources, splits
from tf_reweight.data import value_range as ranges
from tf_reweight.lazy import submodules

# `data.models` imports Keras, which data alone does not need.
__getattr__ = submodules(__name__)

# A test split carved out of one lump of data must be the same in every run, so it depends on neither `seed` nor `validation`.
_TEST_FRACTION = 0.2
_TEST_SEED = 20200413


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test examples of one classification problem.

    `validation` is for decisions (strength, stopping, which model), `test` for the final figures only.

    Args:
        name: where it came from.
        train: pair `(x, y)`; `x` float32 `(batch, *input_shape)`, `y` int32 `(batch,)` in 0..num_classes - 1.
        validation: the same, held out from training.
        test: the same.
        num_classes: number of classes.
        class_names: one name per class.
        divided_by: what raw values were divided by to become `x`, as 255.0 for 8-bit images in [0, 1]; an app must do the same.
        subtracted: what was subtracted from them before: `x = (raw - subtracted) / divided_by`.
        white: the largest raw value that images can have, 255.0 for 8 bits; None where the source says none.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    validation: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    test: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    num_classes: int
    class_names: tuple[str, ...] = dataclasses.field(repr=False)
    divided_by: float = 1.0
    subtracted: float = 0.0
    white: float | None = None

    @property
    def input_shape(self):
        """Shape of one example, without the batch axis."""
        return self.train[0].shape[1:]

    @property
    def black(self):
        """What a raw value of 0 has become."""
        return -self.subtracted / self.divided_by

    def in_range(self, value_range):
        """The same examples with raw values stretched to another range.

        Args:
            value_range: `"raw"` for values as they are stored, or `(low, high)` for what 0 and `white` become.

        Returns:
            A `Dataset`.

        Raises:
            ValueError: for a range that cannot be, or `(low, high)` where the source does not say what white is.

        Example:
            >>> load("digits").in_range((-1, 1)).train[0].min()
            -1.0
        """
        value_range = ranges.check(value_range, automatic=False)
        if value_range != ranges.RAW and self.white is None:
            fix = "Store images as uint8 or uint16, or scale them beforehand and leave `value_range` out."
            raise ValueError(
                errors.message("A range is for images of whole numbers.", fix, value_range=value_range, name=self.name)
            )
        subtracted, divided_by = ranges.normalization(value_range, self.white)
        if (subtracted, divided_by) == (self.subtracted, self.divided_by):
            return self

        def stretched(pair):
            x, y = pair
            raw = x if self.divided_by == 1 else x * np.float32(self.divided_by) + np.float32(self.subtracted)
            return (raw - np.float32(subtracted)) / np.float32(divided_by), y

        changed = {split: stretched(getattr(self, split)) for split in sources.SPLITS}
        return dataclasses.replace(self, divided_by=divided_by, subtracted=subtracted, **changed)

    def representative(self, num=256):
        """Training inputs that stand for all of them, to calibrate int8 ranges.

        Every class is in it, in proportion; the same examples at each call.

        Args:
            num: how many; all of the training inputs where there are fewer.

        Returns:
            float32 `(num, *input_shape)`.

        Example:
            >>> load("digits").representative(100).shape
            (100, 8, 8, 1)
        """
        check_integer("num", num, 1, fix="It counts examples.")
        x, y = self.train
        return x[splits.stratified_order(y, seed=0)[:num]]


def load(name="digits", data_dir=None, validation=0.1, seed=0, limit=None, image_size=None, value_range=ranges.UNIT):
    """Reads a data set into memory and splits it for training, decisions and the final figures.

    A validation split that the source brings along is used as it is; otherwise one is held out from training. So is a test
    split (a fixed 20 % that no argument changes), and it never reaches training or validation. Splits keep each class's share.

    Args:
        name: `"digits"` (8x8, embedded); a tensorflow-datasets name such as `"mnist"` or `"emnist/letters"`;
            an `.npz` file with `x_train`, `y_train` and optionally `x_val`, `y_val`, `x_test`, `y_test`, or `x`, `y` alone;
            or a folder of images, `train/<class>/*.png` with optional `validation/` and `test/`, or `<class>/*.png`.
            uint8 and uint16 are stretched to `value_range`, other dtypes are taken as they are; grey images get a channel axis.
        data_dir: where tensorflow-datasets keeps its data, an existing folder; what is prepared there is not downloaded again.
            Other sources do not use it.
        validation: fraction of the training examples held out, in (0, 1).
        seed: which examples are held out, and which `limit` keeps.
        limit: at most this many training examples, every class included; validation and test stay whole.
        image_size: `(height, width)`, or one int for both, to which a folder's or tensorflow-datasets' images are resized.
            Needed only where their sizes differ.
        value_range: what images of whole numbers become: `(low, high)`, or `"raw"` for values as they are stored, which is what
            a model with a `Rescaling` layer of its own takes.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: for an unknown name, labels that are missing or not 0..n-1, NaN or infinite inputs, arrays that do not
            fit together, a class without examples, fewer than two classes, or an argument out of range.
        FileNotFoundError: for a path, or a `data_dir`, that does not exist.

    Example:
        >>> data = load("digits")
        >>> data.input_shape, data.num_classes, [len(y) for _, y in (data.train, data.validation, data.test)]
        ((8, 8, 1), 10, [1293, 144, 360])
    """
    _check_arguments(validation, seed, limit)
    value_range = ranges.check(value_range, automatic=False)
    image_size = _image_size(image_size)
    found, class_names = sources.reader(name, data_dir, image_size)()
    white = sources.DIGITS_WHITE if name == "digits" else splits.white(found["train"][0])
    splits.check_alike(found)
    found = {split: splits.arrays(split, *found[split]) for split in sources.SPLITS if split in found}
    class_names = class_names or splits.names_from_labels(found["train"][1])
    if len(class_names) < 2:
        raise ValueError(
            errors.message(
                "Expected at least two classes.", "There is nothing to tell apart in one.", name=name, classes=class_names
            )
        )
    splits.check_splits(found, len(class_names))
    if "test" not in found:
        found["train"], found["test"] = splits.hold_out(*found["train"], _TEST_FRACTION, _TEST_SEED)
    if "validation" not in found:
        found["train"], found["validation"] = splits.hold_out(*found["train"], validation, seed)
    if limit is not None:
        found["train"] = splits.limited(*found["train"], limit, seed)
    names = tuple(class_names)
    raw = Dataset(str(name), num_classes=len(names), class_names=names, white=white, **found)
    return raw if white is None and value_range == ranges.UNIT else raw.in_range(value_range)


def _check_arguments(validation, seed, limit):
    check_fraction("validation", validation, "training examples held out, for example 0.1", exclusive=True)
    check_integer("seed", seed, 0, fix="For example 0.")
    if limit is not None:
        check_integer("limit", limit, 1, fix="It counts examples.")


def _image_size(image_size):
    """`(height, width)` or None."""
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not is_sequence(size) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError(
            errors.message("`image_size` must be an int or [height, width].", "For example [96, 96].", image_size=image_size)
        )
    return tuple(size)
