"""Pattern sparsity: every 2-D kernel keeps the best of a few sets of positions."""

import dataclasses
import itertools
import math
import operator

import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import is_integer, is_number, is_sequence
from tf_reweight.structures.base import Structure, safe_sqrt


@dataclasses.dataclass(frozen=True)
class Pattern(Structure):
    """Each `h x w` kernel keeps the positions of one pattern out of a small set (PatDNN, PCONV: arXiv 2001.00138).

    A scope is one kernel, its groups are its positions. `select` keeps the pattern that holds most energy. The
    penalty is the distance to that set, `d = ||w outside its nearest pattern||`: positions inside go free, positions
    outside carry `penalty'(d)`. Since `d` is the distance to a union of subspaces, it is zero exactly on pattern-sparse
    kernels, it scales with the kernel, and with the pattern fixed between updates it lies on or above the true distance and
    touches it at the update, so that each round descends on `sum penalty(d)` as for any other structure.

    Args:
        positions: the patterns, each a tuple of flat positions `row * w + column` that are kept; or the name of a set, see
            `shipped`; or `"natural"`: the `num_patterns` sets of `entries` positions that the kernels at hand choose most
            often by themselves, counted when the structure is put on a model.
        kernel_size: `(h, w)` the positions refer to; None is 3x3, and for `"circles"` and `"natural"` every 2-D kernel.
        entries: of natural patterns: how many positions are kept, >= 1.
        num_patterns: of natural patterns: how many there are, >= 1.
        radius: of circles: see `circles`.

    Example:
        >>> Pattern("natural", entries=4, num_patterns=8).misfit((3, 3, 16, 32))
        'natural patterns are counted when the structure is put on a model: use `regularize` or `prune`'
    """

    positions: tuple[tuple[int, ...], ...] | str = "four"
    kernel_size: tuple[int, int] | None = None
    entries: int | None = None
    num_patterns: int | None = None
    radius: float | None = None

    name = "pattern"
    decides = True

    def __post_init__(self):
        if not isinstance(self.positions, str) and not is_sequence(self.positions):
            fix = "For example [[0, 1, 3, 4], [1, 2, 4, 5]], row * width + column each."
            raise TypeError(errors.message("`positions` must be a name or lists of positions.", fix, positions=self.positions))
        size = _checked_size(self.kernel_size)
        _check_fields(self)
        if self.positions not in _OPEN:
            size = size or (3, 3)
            positions = shipped(self.positions, size) if isinstance(self.positions, str) else self.positions
            object.__setattr__(self, "positions", _checked_positions(positions, size))
        elif self.positions == "circles" and size is not None:
            object.__setattr__(self, "positions", _checked_positions(circles(size, self.radius), size))
            object.__setattr__(self, "radius", None)
        object.__setattr__(self, "kernel_size", size)

    def fit(self, layout):
        size = tuple(layout.standard_shape[:-2])
        if self.positions != "circles" or self._excludes(size):
            return self
        return Pattern("circles", size, radius=self.radius)

    def learn(self, kernel_size, kernels):
        if self.positions != "natural" or self._excludes(kernel_size) or self.entries >= math.prod(kernel_size):
            return self
        return Pattern(natural(kernels, self.entries, self.num_patterns, kernel_size), kernel_size)

    def misfit(self, shape):
        if self.kernel_size is not None and tuple(shape[:-2]) != self.kernel_size:
            return f"the patterns are for {self.kernel_size[0]}x{self.kernel_size[1]} kernels"
        if self._excludes(shape[:-2]):
            return "patterns are for 2-D kernels of more than one position"
        if self.positions == "natural":
            if self.entries >= math.prod(shape[:-2]):
                return f"patterns of {self.entries} entries leave nothing to remove"
            return "natural patterns are counted when the structure is put on a model: use `regularize` or `prune`"
        return None

    def _excludes(self, size):
        return len(size) != 2 or math.prod(size) < 2 or self.kernel_size not in (None, tuple(size))

    def indicator(self):
        """0/1 float32 `(patterns, h * w)`."""
        table = np.zeros((len(self.positions), math.prod(self.kernel_size)), "float32")
        for row, pattern in enumerate(self.positions):
            table[row, list(pattern)] = 1.0
        return table

    def partition(self, kernel):
        area = math.prod(kernel.shape[:-2])
        return ops.expand_dims(ops.transpose(ops.reshape(kernel, (area, -1))), -1)

    def assemble(self, parts, shape):
        return ops.reshape(ops.transpose(parts[..., 0]), tuple(shape))

    def group_norms(self, kernel):
        return ops.abs(self.partition(kernel))[..., 0]

    def select(self, norms):
        table = ops.convert_to_tensor(self.indicator())
        energy = ops.matmul(ops.square(norms), ops.transpose(table))
        return ops.take(table, ops.argmax(energy, axis=-1), axis=0) > 0

    def penalty_weights(self, penalty, norms, epsilon=None):
        outside = ops.cast(ops.logical_not(self.select(norms)), norms.dtype)
        return penalty.weight(_length(norms * outside), epsilon) * outside

    def surrogate(self, weights, norms, power=1):
        if power == 2:
            return ops.sum(weights * ops.square(norms))
        return ops.sum(_length(weights * norms))

    def shrinkage(self, norms, thresholds):
        # All positions outside the pattern are one group of the surrogate, so they shrink by one factor.
        outside = thresholds > 0
        distance = _length(ops.where(outside, norms, 0.0))
        threshold = ops.max(thresholds, axis=-1, keepdims=True)
        alive = distance > threshold
        factor = ops.where(alive, 1.0 - threshold / ops.where(alive, distance, 1.0), 0.0)
        return ops.where(outside, factor, 1.0)


def _length(norms):
    """Euclidean norm of each scope, `(scopes, 1)`."""
    return safe_sqrt(ops.sum(ops.square(norms), axis=-1, keepdims=True))


def shipped(name, kernel_size):
    """Ready-made pattern sets by name, each a tuple of position tuples.

    Args:
        name: `"four"`: the centre and three of its eight neighbours, all 56 sets, for 3x3; `"four_adjacent"`: the eight of
            them whose four positions touch in a square or T; `"five"`: the centre and four neighbours, the 70 sets, for 3x3.
        kernel_size: `(h, w)`.
    """
    if name not in _SHIPPED:
        raise ValueError(errors.unknown("pattern set", name, (*_SHIPPED, *_OPEN)))
    if tuple(kernel_size) != (3, 3):
        raise ValueError(
            errors.message(
                f"The pattern set {name!r} is for 3x3 kernels.",
                "Use 'circles', 'natural' or positions of your own.",
                kernel_size=kernel_size,
            )
        )
    return _SHIPPED[name]()


def _centred(count):
    """The centre of a 3x3 kernel and all choices of `count` of its neighbours."""
    neighbours = [p for p in range(9) if p != 4]
    return tuple(tuple(sorted((4, *chosen))) for chosen in itertools.combinations(neighbours, count))


def _adjacent():
    """Squares and T shapes of four positions around the centre of a 3x3 kernel."""
    squares = ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8))
    return (*squares, (1, 3, 4, 5), (3, 4, 5, 7), (1, 3, 4, 7), (1, 4, 5, 7))


_SHIPPED = {"four": lambda: _centred(3), "four_adjacent": _adjacent, "five": lambda: _centred(4)}
# Sets that are made for a kernel once it is known.
_OPEN = ("circles", "natural")


def circles(kernel_size, radius=None):
    """The disc of a radius around the centre of a kernel, and half discs in four directions of about as many positions.

    Half discs are wider than the disc: inside it they could never hold more of a kernel than the disc does.

    Args:
        kernel_size: `(h, w)`.
        radius: distance from the centre up to which positions belong to the disc, in positions; None: the radius whose
            disc is nearest to half of the kernel.

    Returns:
        Tuple of position tuples, none inside another and none the full kernel.
    """
    height, width = kernel_size
    offsets = [(r - (height - 1) / 2, c - (width - 1) / 2) for r in range(height) for c in range(width)]
    distances = [math.hypot(*offset) for offset in offsets]

    def disc(size, axis=0, sign=0):
        return tuple(p for p, offset in enumerate(offsets) if distances[p] <= size + 1e-9 and sign * offset[axis] >= 0)

    radii = sorted(set(distances))
    if radius is None:
        radius = min(radii, key=lambda size: abs(len(disc(size)) - len(offsets) / 2))
    whole = disc(radius)
    directions = [(axis, sign) for axis in (0, 1) for sign in (1, -1)]
    # Of two radii equally near in number, the larger.
    halves = [min((disc(r, *d) for r in radii[::-1]), key=lambda half: abs(len(half) - len(whole))) for d in directions]
    sets = [found for found in dict.fromkeys([whole, *halves]) if 0 < len(found) < len(offsets)]
    return tuple(one for one in sets if not any(set(one) < set(other) for other in sets))


def natural(kernels, entries, num_patterns, kernel_size=(3, 3)):
    """The `num_patterns` sets of `entries` positions that trained kernels choose most often by themselves.

    Args:
        kernels: arrays `(h, w, in, out)`, all of `kernel_size`.
        entries: how many largest positions of each 2-D kernel count as its natural pattern.
        num_patterns: how many sets are returned, most frequent first.

    Returns:
        Tuple of position tuples for `Pattern(positions=...)`.
    """
    area = kernel_size[0] * kernel_size[1]
    counts = {}
    for kernel in kernels:
        rows = np.abs(np.asarray(kernel)).reshape(area, -1).T
        chosen = np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :entries], axis=1)
        for pattern, count in zip(*np.unique(chosen, axis=0, return_counts=True)):
            key = tuple(int(p) for p in pattern)
            counts[key] = counts.get(key, 0) + int(count)
    return tuple(sorted(counts, key=lambda key: (-counts[key], key))[:num_patterns])


def _checked_size(size):
    if size is None:
        return None
    if not is_sequence(size) or len(size) != 2 or not all(is_integer(n) and n >= 1 for n in size):
        raise ValueError(errors.message("`kernel_size` must be two positive integers.", "Try [3, 3].", kernel_size=size))
    return tuple(size)


def _checked_positions(positions, size):
    area = math.prod(size)
    try:
        patterns = tuple(tuple(sorted({operator.index(p) for p in pattern})) for pattern in positions)
    except TypeError:  # what is no list of lists of whole numbers
        patterns = ()
    if not patterns or any(not pattern or pattern[0] < 0 or pattern[-1] >= area for pattern in patterns):
        raise ValueError(
            errors.message(
                f"Each pattern needs at least one position in 0..{area - 1} for kernel_size {list(size)}.",
                "Positions are row * width + column.",
                positions=positions,
            )
        )
    return tuple(dict.fromkeys(patterns))


def _check_fields(pattern):
    """Raises for a field that the chosen kind of set does not have, or that it lacks."""
    for field, kind, needed in (("entries", "natural", True), ("num_patterns", "natural", True), ("radius", "circles", False)):
        value = getattr(pattern, field)
        if value is None and not (needed and pattern.positions == kind):
            continue
        good = is_integer(value) and value >= 1 if needed else is_number(value) and value >= 0
        if pattern.positions != kind or not good:
            number = "an integer >= 1" if needed else "a number >= 0"
            raise ValueError(
                errors.message(
                    f"`{field}` of a pattern must be {number}, and belongs to positions {kind!r}.",
                    "For example {name: pattern, positions: natural, entries: 4, num_patterns: 8}.",
                    **{field: value, "positions": pattern.positions},
                )
            )
