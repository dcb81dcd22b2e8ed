"""Pattern sparsity: every 2-D kernel keeps the best of a few sets of positions."""

import dataclasses
import itertools
import math

import numpy as np
from keras import ops

from tf_reweight import errors
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
        positions: the patterns, each a tuple of flat positions `row * w + column` that are kept; see `shipped` for
            ready-made sets.
        kernel_size: `(h, w)` the positions refer to.
    """

    positions: tuple[tuple[int, ...], ...] | str = "four"
    kernel_size: tuple[int, int] = (3, 3)

    name = "pattern"

    def __post_init__(self):
        size = tuple(self.kernel_size)
        if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
            raise ValueError(
                errors.message("`kernel_size` must be two positive integers.", "Try [3, 3].", kernel_size=self.kernel_size)
            )
        positions = shipped(self.positions, size) if isinstance(self.positions, str) else self.positions
        area = size[0] * size[1]
        patterns = tuple(tuple(sorted({int(p) for p in pattern})) for pattern in positions)
        if not patterns or any(not pattern or pattern[0] < 0 or pattern[-1] >= area for pattern in patterns):
            raise ValueError(
                errors.message(
                    f"Each pattern needs at least one position in 0..{area - 1} for kernel_size {list(size)}.",
                    "Positions are row * width + column.",
                    positions=self.positions,
                )
            )
        object.__setattr__(self, "kernel_size", size)
        object.__setattr__(self, "positions", tuple(dict.fromkeys(patterns)))

    def misfit(self, shape):
        if tuple(shape[:-2]) != self.kernel_size:
            return f"the patterns are for {self.kernel_size[0]}x{self.kernel_size[1]} kernels"
        return None

    def indicator(self):
        """0/1 float32 `(patterns, h * w)`."""
        table = np.zeros((len(self.positions), self.kernel_size[0] * self.kernel_size[1]), "float32")
        for row, pattern in enumerate(self.positions):
            table[row, list(pattern)] = 1.0
        return table

    def partition(self, kernel):
        area = self.kernel_size[0] * self.kernel_size[1]
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
        outside = norms * ops.cast(ops.logical_not(self.select(norms)), norms.dtype)
        distance = safe_sqrt(ops.sum(ops.square(outside), axis=-1, keepdims=True))
        free = ops.cast(self.select(norms), norms.dtype)
        return penalty.weight(distance, epsilon) * (1.0 - free)

    def surrogate(self, weights, norms, power=1):
        if power == 2:
            return ops.sum(weights * ops.square(norms))
        return ops.sum(safe_sqrt(ops.sum(ops.square(weights * norms), axis=-1)))


def shipped(name, kernel_size):
    """Ready-made pattern sets by name, each a tuple of position tuples.

    Args:
        name: `"four"`: the centre and three of its eight neighbours, all 56 sets, for 3x3; `"four_adjacent"`: the eight of
            them whose four positions touch in a square or T; `"five"`: the centre and four neighbours, the 70 sets, for 3x3;
            `"circles"`: discs and half discs around the centre, by radius, for any kernel size.
        kernel_size: `(h, w)`.
    """
    if name in ("four", "five", "four_adjacent"):
        if tuple(kernel_size) != (3, 3):
            raise ValueError(
                errors.message(
                    f"The pattern set {name!r} is for 3x3 kernels.",
                    "Use 'circles' or positions of your own.",
                    kernel_size=kernel_size,
                )
            )
        if name == "four_adjacent":
            squares = [(0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8)]
            tees = [(1, 3, 4, 5), (3, 4, 5, 7), (1, 3, 4, 7), (1, 4, 5, 7)]
            return tuple(squares + tees)
        neighbours = [p for p in range(9) if p != 4]
        count = 3 if name == "four" else 4
        return tuple(tuple(sorted((4, *chosen))) for chosen in itertools.combinations(neighbours, count))
    if name == "circles":
        return circles(kernel_size)
    raise ValueError(errors.unknown("pattern set", name, ("four", "four_adjacent", "five", "circles")))


def circles(kernel_size):
    """Discs around the centre of every radius that adds a position, and their four halves.

    Returns:
        Tuple of position tuples, without repetition and without the full kernel.
    """
    height, width = kernel_size
    centre = ((height - 1) / 2, (width - 1) / 2)
    offsets = [(r - centre[0], c - centre[1]) for r in range(height) for c in range(width)]
    sets = []
    for radius in sorted({math.hypot(*offset) for offset in offsets}):
        disc = [p for p, offset in enumerate(offsets) if math.hypot(*offset) <= radius + 1e-9]
        halves = [[p for p in disc if sign * offsets[p][axis] >= 0] for axis in (0, 1) for sign in (1, -1)]
        sets += [tuple(positions) for positions in (disc, *halves)]
    full = height * width
    return tuple(dict.fromkeys(positions for positions in sets if positions and len(positions) < full))


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
