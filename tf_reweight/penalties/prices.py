"""What a group costs relative to those of other kernels: prices by name, one on average."""

import math

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_name
from tf_reweight.penalties.renewed import check_price

PRICES = ("equal", "size")


def check(price, names=PRICES):
    """Raises ValueError unless `price` is a number > 0 or among `names`."""
    if isinstance(price, str):
        check_name("price", price, names)
    else:
        check_price(price)


def asked(price, items):
    """What a user's function says of each of some things; raises ValueError where it fails, or gives no price."""
    found = []
    for item in items:
        try:
            found.append(price(item))
        except Exception as error:  # whatever is raised
            said = f"{type(error).__name__}: {error}".rstrip(".")
            expected = f"`price` must be a number, a name, or a function of a {type(item).__name__}; it raised {said}."
            raise ValueError(errors.message(expected, "Correct the function.", price=price)) from error
        check_price(found[-1])
    return found


def of_kernels(price, items):
    """The price of each kernel of a `regularize` call.

    `"size"` is the root of a group's number of weights, as the group lasso has it (Yuan and Lin 2006), divided by the mean over
    all groups. Without it a column of 500 weights costs what one of 10 does, and the penalty takes the small ones.

    Args:
        price: a number, a name of `PRICES`, or a function `Target -> number`.
        items: what `kernels.selection.select` found: each with `target` and `structure`.

    Returns:
        Floats > 0, in the order of `items`.
    """
    if callable(price):
        return asked(price, [item.target for item in items])
    check(price)
    if price != "size":
        return [1.0 if price == "equal" else price] * len(items)
    members = [np.asarray(item.structure.num_members(item.target.standard_shape)) for item in items]
    counts = [int((m > 0).sum()) for m in members]
    roots = [math.sqrt(m.sum() / count) for m, count in zip(members, counts)]
    mean = sum(root * count for root, count in zip(roots, counts)) / sum(counts)
    return [root / mean for root in roots]
