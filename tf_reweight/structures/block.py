"""Structures on the matrix `(spatial * in, out)` a kernel is multiplied as, cut into equal blocks."""

import dataclasses

from keras import ops

from tf_reweight import errors
from tf_reweight.checks import is_integer, is_sequence
from tf_reweight.structures.base import Structure, num_rows


class _Blocks(Structure):
    """Cuts the matrix into `shape` blocks; blocks at the right and lower edge are filled up with zeros."""

    def __post_init__(self):
        shape = tuple(self.shape) if is_sequence(self.shape) else self.shape
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(is_integer(n) and n >= 1 for n in shape)):
            raise ValueError(
                errors.message("`shape` of a block must be two positive integers (rows, columns).", "Try [4, 4].", shape=shape)
            )
        object.__setattr__(self, "shape", shape)

    def _cut(self, kernel):
        """Kernel -> `(block rows, block columns, bh, bw)`."""
        height, width = self.shape
        rows, columns = num_rows(kernel.shape), kernel.shape[-1]
        matrix = ops.reshape(kernel, (rows, columns))
        down, across = -(-rows // height), -(-columns // width)
        if (down * height, across * width) != (rows, columns):
            matrix = ops.pad(matrix, ((0, down * height - rows), (0, across * width - columns)))
        return ops.transpose(ops.reshape(matrix, (down, height, across, width)), (0, 2, 1, 3))

    def _join(self, blocks, shape):
        """The inverse of `_cut`; `blocks` may have any shape with the right order of elements."""
        height, width = self.shape
        rows, columns = num_rows(shape), shape[-1]
        down, across = -(-rows // height), -(-columns // width)
        matrix = ops.transpose(ops.reshape(blocks, (down, across, height, width)), (0, 2, 1, 3))
        matrix = ops.reshape(matrix, (down * height, across * width))
        return ops.reshape(matrix[:rows, :columns], tuple(shape))


@dataclasses.dataclass(frozen=True)
class Block(_Blocks):
    """Whole blocks of the matrix `(spatial * in, out)`: what block-sparse runtimes skip.

    Args:
        shape: `(rows, columns)` of a block; edges that do not divide get smaller blocks.
    """

    shape: tuple[int, int] = (4, 4)

    name = "block"

    def partition(self, kernel):
        return ops.reshape(self._cut(kernel), (1, -1, self.shape[0] * self.shape[1]))

    def assemble(self, parts, shape):
        return self._join(parts, shape)


@dataclasses.dataclass(frozen=True)
class BlockRow(_Blocks):
    """Rows inside each block (BLK-REW, arXiv 2001.08357): each block is a scope and loses rows of its own."""

    shape: tuple[int, int] = (16, 16)

    name = "block_row"

    def partition(self, kernel):
        return ops.reshape(self._cut(kernel), (-1, self.shape[0], self.shape[1]))

    def assemble(self, parts, shape):
        return self._join(parts, shape)


@dataclasses.dataclass(frozen=True)
class BlockColumn(_Blocks):
    """Columns inside each block (BLK-REW, arXiv 2001.08357): each block is a scope and loses columns of its own."""

    shape: tuple[int, int] = (16, 16)

    name = "block_column"

    def partition(self, kernel):
        return ops.swapaxes(ops.reshape(self._cut(kernel), (-1, self.shape[0], self.shape[1])), -1, -2)

    def assemble(self, parts, shape):
        return self._join(ops.swapaxes(parts, -1, -2), shape)
