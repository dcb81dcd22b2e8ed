"""Kernels as pictures: what is left of them, by sign and size; what was removed is the paper."""

import base64
import struct
import zlib

import numpy as np

from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels.table import find

# Larger kernels are drawn in cells, each showing its largest weight.
_LARGEST = 320
_LARGEST_DOT, _THINNEST = 8, 24
_POSITIVE, _NEGATIVE = (31, 142, 179), (222, 116, 55)
# A kept weight shows however small it is.
_FAINTEST = 0.45


def kernels(model, most=24):
    """Pictures of a model's kernels: list of dicts with `name`, `shape`, `kept`, `how`, `image`, `width` and `height` (pixels).

    Args:
        model: the pruned Keras model.
        most: at most so many, the largest kernels, in the model's order.
    """
    found = find(model)[0]
    shown = sorted(found, key=lambda target: -np.prod(target.layout.shape))[:most]
    return [_picture(target.name, as_numpy(target.variable).astype("float32")) for target in found if target in shown]


def _picture(name, kernel):
    drawn, how = _tiles(kernel), "a tile for each input (down) and output (across)"
    if drawn is None:
        drawn, how = cells(kernel.reshape(-1, kernel.shape[-1]).T), "outputs down, inputs across"
        if drawn.size < kernel.size:
            how += ", several weights to a dot"
    elif 1 in kernel.shape[2:]:
        how = "a tile for each filter"
    scale = min(_LARGEST_DOT, max(1, _LARGEST // max(drawn.shape)))
    # A strip is stretched across, or it would be a line.
    height, width = (max(scale, -(-_THINNEST // size)) * size for size in drawn.shape)
    return {
        "name": name,
        "shape": " x ".join(map(str, kernel.shape)),
        "kept": f"{int(np.count_nonzero(kernel)):,} of {kernel.size:,}",
        "how": how,
        "image": png(coloured(drawn)),
        "width": width,
        "height": height,
    }


def _tiles(kernel):
    """A convolution's kernel `(height, width, in, out)` as tiles with a gap of NaN between them.

    Where there is one input or one output the tiles of the other make a block. None where that is too large, or no convolution.
    """
    if kernel.ndim != 4 or max(kernel.shape[:2]) == 1:
        return None
    tiles = kernel.transpose(2, 3, 0, 1)
    if 1 in tiles.shape[:2]:
        tiles = _block(tiles.reshape(-1, *tiles.shape[2:]))
    rows, columns, height, width = tiles.shape
    if rows * (height + 1) > _LARGEST or columns * (width + 1) > _LARGEST:
        return None
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return padded.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def _block(tiles):
    """Tiles `(num, height, width)` in rows of twice as many columns, the last row filled up with gaps."""
    columns = int(np.ceil(np.sqrt(2 * len(tiles))))
    rows = -(-len(tiles) // columns)
    filled = np.full((rows * columns, *tiles.shape[1:]), np.nan, tiles.dtype)
    filled[: len(tiles)] = tiles
    return filled.reshape(rows, columns, *tiles.shape[1:])


def cells(matrix):
    """A matrix of bounded size: the weight of largest magnitude in each cell, with its sign."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > _LARGEST:
            starts = np.linspace(0, size, _LARGEST, endpoint=False).astype(int)
            high, low = (pick.reduceat(matrix, starts, axis=axis) for pick in (np.maximum, np.minimum))
            matrix = np.where(high >= -low, high, low)
    return matrix


def coloured(values):
    """RGBA, uint8 `(rows, columns, 4)`: blue for positive, orange for negative, the larger the stronger; zeros are transparent.

    NaN is the gap between tiles, a faint grey.
    """
    gap = np.isnan(values)
    values = np.where(gap, 0.0, values)
    image = np.zeros((*values.shape, 4), "uint8")
    image[values > 0, :3], image[values < 0, :3] = _POSITIVE, _NEGATIVE
    largest = float(np.abs(values).max(initial=0.0))
    strength = np.sqrt(np.abs(values) / largest) if largest > 0 else np.zeros_like(values)
    image[..., 3] = np.where(values == 0, 0, 255 * (_FAINTEST + (1 - _FAINTEST) * strength))
    image[gap] = (128, 128, 128, 48)
    return image


def png(image):
    """An RGBA picture as a data address."""
    height, width, _ = image.shape
    rows = b"".join(b"\x00" + row.tobytes() for row in image)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()
