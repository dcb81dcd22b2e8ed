"""TFLite's sparse format: which layout is the smallest for an array, encoding into it, and decoding what anyone wrote.

A stored tensor is walked axis by axis in a *traversal order*. All axes are dense but one, whose nonzero positions are listed
(`SPARSE_CSR`): the axes before it say which list, the axes after it and the blocks are stored whole at each listed position.
Only zeros that fill such a whole are dropped, so the choice of the axis and of the order decides what is saved.
"""

import dataclasses
import itertools
import math
import zlib

import numpy as np

from tf_reweight.tflite import flatbuffer

# Blocks lie on the first and the last axis: filters and channels in every layout that TFLite has.
BLOCK_SIZES = (1, 2, 4, 8, 16)
_VECTORS = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}
_TYPES = {1: "uint8", 2: "uint16", 4: "int32"}
# Short lists have small positions, which zip well, and many ends: a little larger as it lies, it may be smaller zipped.
_SLACK = 1.04


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array is stored sparsely.

    Attributes:
        order: its axes in the order they are walked.
        level: position in `order` of the axis whose nonzero positions are listed.
        blocks: pairs `(axis, size)`, by axis: the axis is walked in steps of `size`, and each step is stored whole.
    """

    order: tuple[int, ...]
    level: int
    blocks: tuple[tuple[int, int], ...] = ()

    def __str__(self):
        walked = " ".join(f"[{axis}]" if i == self.level else str(axis) for i, axis in enumerate(self.order))
        return f"axes {walked}" + "".join(f", {size} along axis {axis}" for axis, size in self.blocks)


def layouts(array):
    """All layouts worth a thought, those that take the fewest bytes first, and of equal ones the plainest.

    Args:
        array: at least one axis and one entry.

    Returns:
        List of `(num_bytes, Layout)`: values, positions and list ends.

    Example:
        >>> layouts(np.eye(4, dtype="int8"))[0]
        (13, Layout(order=(0, 1), level=1, blocks=()))
    """
    grids = _grids(array != 0)
    found = [made for blocks, grid in grids for made in _layouts(grid, blocks, array.shape, array.itemsize)]
    return sorted(found, key=_preference)


def download_layout(arrays):
    """Of the layouts that take the fewest bytes, but for a few percent, the one that is the smallest zipped.

    Args:
        arrays: the same entries in one shape or several.

    Returns:
        `(array, Layout, num_bytes)`, with the array as it was given.
    """
    found = [(cost, layout, array) for array in arrays for cost, layout in layouts(array)]
    limit = _SLACK * min(cost for cost, _, _ in found)
    near = {}
    for cost, layout, array in sorted((item for item in found if item[0] <= limit), key=_preference):
        # Layouts of one cost and one length of list zip alike; most are one layout under several names.
        near.setdefault((cost, array.shape[layout.order[layout.level]]), (cost, layout, array))
    choices = list(near.values())
    cost, layout, array = min(choices, key=lambda item: zipped_bytes(item[2], item[1])) if choices[1:] else choices[0]
    return array, layout, cost


def zipped_bytes(array, layout):
    """Bytes that the values and positions of a layout take compressed."""
    values, sparsity = encode(array, layout)
    listed = sparsity.dimMetadata[layout.level]
    parts = (values, listed.arraySegments.values, listed.arrayIndices.values)
    return len(zlib.compress(b"".join(np.asarray(part).tobytes() for part in parts), 9))


def encode(array, layout):
    """Stores an array sparsely.

    Args:
        array: numbers of any type; a negative zero counts as zero, since weight times mask makes them by the thousand.
        layout: a `Layout` whose blocks divide the axes.

    Returns:
        `(values, sparsity)`: the stored entries, flat, and a `SparsityParametersT`.
    """
    schema = flatbuffer.schema()
    rank, sizes = array.ndim, dict(layout.blocks)
    split, positions = [], []
    for axis, length in enumerate(array.shape):
        positions.append(len(split))
        split += [length // sizes[axis], sizes[axis]] if axis in sizes else [length]
    order = [positions[axis] for axis in layout.order] + [positions[axis] + 1 for axis in sizes]
    walked = array.reshape(split).transpose(order)
    rows, listed = math.prod(walked.shape[: layout.level]), walked.shape[layout.level]
    members = walked.reshape(rows, listed, -1)
    kept = (members != 0).any(-1)
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.asarray([*layout.order, *range(rank, rank + len(sizes))], "int32")
    sparsity.blockMap = np.asarray(list(sizes), "int32") if sizes else None
    sparsity.dimMetadata = []
    for level, length in enumerate(walked.shape):
        made = schema.DimensionMetadataT()
        made.format, made.denseSize = schema.DimensionType.DENSE, length
        if level == layout.level:
            made.format = schema.DimensionType.SPARSE_CSR
            ends = np.concatenate([[0], np.cumsum(kept.sum(1))])
            made.arraySegmentsType, made.arraySegments = _vector(ends)
            made.arrayIndicesType, made.arrayIndices = _vector(np.nonzero(kept)[1])
        sparsity.dimMetadata.append(made)
    return members[kept].reshape(-1), sparsity


def decode(values, sparsity, shape):
    """The dense array of any sparse tensor, ours or the converter's.

    Args:
        values: the stored entries, flat.
        sparsity: its `SparsityParametersT`, with any number of listed axes.
        shape: of the dense array.

    Returns:
        Array of that shape and the type of `values`.

    Raises:
        ValueError: when the parameters do not fit the shape or the number of stored entries.
    """
    check(sparsity, shape)
    schema, rank = flatbuffer.schema(), len(shape)
    order, blocks = _axes(sparsity)
    steps = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    steps += [steps[axis] for axis in blocks]
    for level, axis in enumerate(order[rank:]):
        steps[blocks[axis - rank]] *= sparsity.dimMetadata[rank + level].denseSize
    offsets = parents = np.zeros(1, "int64")
    for axis, dimension in zip(order, sparsity.dimMetadata):
        if dimension.format == schema.DimensionType.DENSE:
            length = dimension.denseSize
            taken = np.tile(np.arange(length), len(offsets))
            parents = np.repeat(parents * length, length) + taken
            offsets = np.repeat(offsets, length) + taken * steps[axis]
        else:
            ends = np.asarray(dimension.arraySegments.values, "int64")
            listed = np.asarray(dimension.arrayIndices.values, "int64")
            counts = (ends[1:] - ends[:-1])[parents]
            first = np.repeat(ends[parents] - np.cumsum(counts) + counts, counts)
            parents = first + np.arange(len(first))
            offsets = np.repeat(offsets, counts) + listed[parents] * steps[axis]
    if len(offsets) != len(values) or (len(offsets) and not 0 <= offsets.min() <= offsets.max() < math.prod(shape)):
        raise ValueError(f"The sparsity parameters do not fit the shape {tuple(shape)} and {len(values)} stored entries.")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[offsets] = values
    return dense.reshape(shape)


def check(sparsity, shape):
    """Raises ValueError where sparsity parameters do not describe an array of a shape; nothing of its size is made.

    LiteRT believes them: with others it reads and writes outside its memory, and the process dies.
    """
    rank, (order, blocks), levels = len(shape), _axes(sparsity), sparsity.dimMetadata or []
    good = len(order) == len(levels) and sorted(order) == list(range(rank + len(blocks)))
    if not good or len(set(blocks)) != len(blocks) or not all(0 <= axis < rank for axis in blocks):
        raise ValueError(f"The sparsity parameters do not fit the shape {tuple(shape)}.")
    schema, sizes, rows = flatbuffer.schema(), list(shape) + [0] * len(blocks), 1
    lengths = {axis: int(level.denseSize) for axis, level in zip(order, levels)}
    for position, axis in enumerate(blocks):
        sizes[rank + position] = lengths.get(rank + position) or 1
        sizes[axis] = shape[axis] / sizes[rank + position]
    for axis, level in zip(order, levels):
        if level.format == schema.DimensionType.DENSE:
            if level.denseSize < 1 or level.denseSize != sizes[axis]:
                raise ValueError(f"The sparsity parameters do not fit the shape {tuple(shape)} on axis {axis}.")
            rows *= level.denseSize
        else:
            rows = _check_lists(level, rows, sizes[axis])


def _check_lists(level, rows, size):
    """The number of positions that a listed axis holds; raises ValueError where its lists do not fit."""
    if level.arraySegments is None or level.arrayIndices is None:
        raise ValueError("A listed axis of the sparsity parameters has no lists.")
    ends, listed = (np.atleast_1d(np.asarray(part.values, "int64")) for part in (level.arraySegments, level.arrayIndices))
    whole = len(ends) == rows + 1 and ends[0] == 0 and ends[-1] == len(listed) and (np.diff(ends) >= 0).all()
    if not whole or (len(listed) and not 0 <= listed.min() <= listed.max() < size):
        raise ValueError("The lists of an axis of the sparsity parameters do not fit its size.")
    return len(listed)


def _axes(sparsity):
    """`(traversal order, axes that have blocks)`."""
    given = (sparsity.traversalOrder, sparsity.blockMap)
    return tuple([] if part is None else [int(axis) for axis in part] for part in given)


def num_index_bytes(sparsity):
    """Bytes that the listed positions and the ends of the lists take."""
    vectors = [vector for made in sparsity.dimMetadata for vector in (made.arraySegments, made.arrayIndices)]
    return sum(np.asarray(vector.values).nbytes for vector in vectors if vector is not None)


def _width(largest):
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


def _vector(numbers):
    width = _width(int(numbers.max(initial=0)))
    schema = flatbuffer.schema()
    vector = getattr(schema, f"{_VECTORS[width]}T")()
    vector.values = numbers.astype(_TYPES[width])
    return getattr(schema.SparseIndexVector, _VECTORS[width]), vector


def _preference(item):
    cost, layout, *_ = item
    return cost, len(layout.blocks), layout.order, layout.level


def _grids(nonzero):
    """Pairs `(blocks, grid)` where the grid tells which blocks hold a nonzero; each grid is made from a finer one."""
    last = nonzero.ndim - 1
    grids = {(1, 1): nonzero}
    for first, second in itertools.product(BLOCK_SIZES, BLOCK_SIZES):
        if (first, second) not in grids:
            axis = 0 if first > 1 else last
            finer = grids.get((first // 2, second) if first > 1 else (first, second // 2))
            if finer is None or finer.shape[axis] % 2 or (last == 0 and second > 1):
                continue
            halves = (*finer.shape[:axis], finer.shape[axis] // 2, 2, *finer.shape[axis + 1 :])
            grids[first, second] = finer.reshape(halves).any(axis + 1)
        blocks = tuple((axis, size) for axis, size in ((0, first), (last, second)) if size > 1)
        yield blocks, grids[first, second]


def _layouts(grid, blocks, shape, itemsize):
    """Pairs `(num_bytes, Layout)` of all choices of walked axes, over one grid of blocks."""
    axes = range(grid.ndim)
    seen = {tuple(axes): grid}
    for num in range(grid.ndim, 0, -1):
        for walked in itertools.combinations(axes, num):
            if walked not in seen:
                extra = next(axis for axis in axes if axis not in walked)
                finer = tuple(sorted((*walked, extra)))
                seen[walked] = seen[finer].any(finer.index(extra))
            entries = int(np.count_nonzero(seen[walked]))
            inner = tuple(axis for axis in axes if axis not in walked)
            members = math.prod(shape) // math.prod(grid.shape[axis] for axis in walked)
            for listed in walked:
                outer = tuple(axis for axis in walked if axis != listed)
                ends = math.prod(grid.shape[axis] for axis in outer) + 1
                cost = entries * members * itemsize + ends * _width(entries) + entries * _width(grid.shape[listed] - 1)
                yield cost, Layout((*outer, listed, *inner), len(outer), blocks)
