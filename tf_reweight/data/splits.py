"""From a source's arrays to ours: checked, scaled, split so that every class keeps its share."""

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_unmasked

_WHITE = {np.dtype("uint8"): 255.0, np.dtype("uint16"): 65535.0}


def arrays(split, x, y):
    """float32 inputs and int32 labels of one split, checked on their own."""
    for array in (x, y):
        check_unmasked(array, split)
    x, y = np.asarray(x), np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "iub":
        hint = 'One-hot labels: pass `y.argmax(-1)`; whole floats: `y.astype("int32")`.'
        raise ValueError(
            errors.message(f"Labels must be integers (batch,), in {split}.", hint, shape=y.shape, dtype=str(y.dtype))
        )
    if x.ndim < 2 or x.dtype.kind not in "iubf":
        raise ValueError(
            errors.message(
                f"Inputs must be numbers (batch, ...), in {split}.", "Stack the examples.", shape=x.shape, dtype=str(x.dtype)
            )
        )
    if len(x) != len(y) or not len(x):
        raise ValueError(
            errors.message(
                f"Expected as many inputs as labels, at least one, in {split}.",
                "Pass both of the same examples.",
                inputs=len(x),
                labels=len(y),
            )
        )
    whole = np.iinfo("int32")
    if y.min() < whole.min or y.max() > whole.max:
        # Cast as they are they would come round as other classes.
        fix = "`numpy.unique(y, return_inverse=True)[1]` renumbers them."
        expected = f"Labels must be 0..n-1, in {split}."
        raise ValueError(errors.message(expected, fix, lowest=int(y.min()), highest=int(y.max())))
    grey = x.ndim == 3 and x.dtype in _WHITE
    x = x.astype("float32", copy=False)
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
    if bad.size:
        raise ValueError(
            errors.message(
                f"Inputs must be finite (no NaN, no infinity), in {split}.", "Remove or fill them.", examples=bad[:5].tolist()
            )
        )
    return (x[..., None] if grey else x), y.astype("int32")


def white(x):
    """The largest value that unsigned images can have; None for inputs of other types."""
    return _WHITE.get(np.asarray(x).dtype)


def check_alike(found):
    """Raises where one split holds 8-bit images and another images of another type: one range could not be right for both."""
    types = {split: str(np.asarray(x).dtype) for split, (x, _) in found.items()}
    if len({white(x) for x, _ in found.values()}) > 1:
        fix = "Store every split with the same type."
        raise ValueError(errors.message("Images of all splits must have one range.", fix, **types))


def names_from_labels(labels):
    """`"0"`, `"1"`, ... for labels that count from 0 without a gap."""
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        raise ValueError(
            errors.message(
                "Labels must be 0..n-1, each class in training.",
                "`numpy.unique(y, return_inverse=True)[1]` renumbers them.",
                labels=found[:10].tolist(),
            )
        )
    return [str(label) for label in found]


def check_splits(splits, num_classes):
    """Every split fits to the training split."""
    shape = splits["train"][0].shape[1:]
    for split, (x, y) in splits.items():
        if x.shape[1:] != shape:
            raise ValueError(
                errors.message(
                    "Examples of every split must have one shape.",
                    "Check the arrays.",
                    split=split,
                    shape=x.shape[1:],
                    train=shape,
                )
            )
        if y.min() < 0 or y.max() >= num_classes:
            raise ValueError(
                errors.message(
                    f"Labels must be in 0..{num_classes - 1}, the classes of training.",
                    "Unlabelled examples (-1) have to be left out.",
                    split=split,
                    lowest=int(y.min()),
                    highest=int(y.max()),
                )
            )


def class_numbers(labels):
    """Labels that are one whole number each, an array `(num,)`; None for others."""
    found = labels if isinstance(labels, np.ndarray) else None
    return found if found is not None and found.ndim == 1 and found.dtype.kind in "iu" else None


def numbered(labels, shape):
    """Labels as one number for each choice of a class: those with an axis of one and one-hot ones too; others as they are.

    Args:
        labels: an array, or None.
        shape: of the outputs, `(num, ..., classes)`.
    """
    if labels is None or np.shape(labels) == shape[:-1]:
        return labels
    labels = np.asarray(labels)
    if labels.shape == (*shape[:-1], 1):
        return labels[..., 0]
    one_hot = labels.shape == shape and np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
    return labels.argmax(-1) if one_hot else labels


def stratified_order(labels, seed):
    """Shuffles so that every prefix holds the classes in proportion, one of each first.

    Member r of a class of n gets the key r / n: sorted by it, the classes run through side by side.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        keys[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(keys, kind="stable")]


def hold_out(x, y, fraction, seed):
    """`((x, y) that stays, (x, y) held out)`, stratified; every class keeps an example in what stays."""
    order = stratified_order(y, seed)
    last = {y[index]: index for index in order}
    candidates = order[~np.isin(order, list(last.values()))]
    num = max(round(fraction * len(y)), len(np.unique(y[candidates])))
    if not len(candidates):
        raise ValueError(
            errors.message("Expected at least two examples per class, one to hold out.", "Add examples.", examples=len(y))
        )
    held, stays = np.sort(candidates[:num]), np.ones(len(y), bool)
    stays[held] = False
    return (x[stays], y[stays]), (x[held], y[held])


def limited(x, y, limit, seed):
    if limit < len(np.unique(y)):
        raise ValueError(
            errors.message("`limit` must leave an example of each class.", "Raise it.", limit=limit, classes=len(np.unique(y)))
        )
    kept = np.sort(stratified_order(y, seed)[:limit])
    return x[kept], y[kept]
