"""Arrays from `.npz` files, which are looked at before anything is made as large as they say."""

import lzma
import math
import zipfile
import zlib

import numpy as np

from tf_reweight import errors
from tf_reweight.files import check_is_file

# Deflate makes nothing smaller than 1,032 to 1; a file that says more is damaged or made to fill the memory.
_LARGEST_RATIO = 1100
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OverflowError, MemoryError, RuntimeError,
    OSError, UnicodeDecodeError,
)  # fmt: skip
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path):
    """`{split: (x, y)}` of the arrays `x_train`, `y_train` (or `x`, `y`) and, where there are such, `x_val`, `x_test`, ...

    Args:
        path: `pathlib.Path` of the file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for another kind of file, a damaged one, missing arrays, and arrays of objects.
    """
    check_is_file(path, "The .npz file", name=str(path))
    if not zipfile.is_zipfile(path) or _start(path) != b"PK\x03\x04":
        raise ValueError(errors.message("Expected an .npz archive.", "Write it with numpy.savez.", name=str(path)))
    try:
        return _splits(path)
    except _DAMAGE as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _start(path):
    with path.open("rb") as file:
        return file.read(4)


def _splits(path):
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        keys = set(archive.files)
        renamed = {"x": "x_train", "y": "y_train"} if "x_train" not in keys else {}
        original = {renamed.get(key, key): key for key in keys}
        _check_keys(path, keys, set(original))
        return {
            split: tuple(_array(path, archive, original[f"{axis}_{suffix}"]) for axis in "xy")
            for split, suffix in (("train", "train"), ("validation", "val"), ("test", "test"))
            if f"x_{suffix}" in original
        }


def _check_keys(path, keys, found):
    if "x_train" not in found:
        expected = "Expected the arrays x_train and y_train, or x and y."
        raise ValueError(errors.message(expected, "Name them so.", name=str(path), keys=sorted(keys)))
    for suffix in ("train", "val", "test"):
        if (f"x_{suffix}" in found) != (f"y_{suffix}" in found):
            given, missing = ("x", "y") if f"x_{suffix}" in found else ("y", "x")
            expected = f"Expected both inputs and labels: there is {given}_{suffix}, and no {missing}_{suffix}."
            plain = f", or {missing} beside {given}" if suffix == "train" else ""
            fix = f"Name the missing array {missing}_{suffix}{plain}; or leave both out."
            raise ValueError(errors.message(expected, fix, name=str(path), keys=sorted(keys)))


def _array(path, archive, key):
    _check_size(path, archive.zip, f"{key}.npy")
    try:
        return archive[key]
    except ValueError as error:  # Pickled objects are refused: they can run code.
        expected, fix = "Expected arrays of numbers.", "Save them with a numeric dtype."
        raise ValueError(errors.message(expected, fix, name=str(path), key=key, error=str(error))) from error


def _check_size(path, archive, name):
    """Raises where an array says that it has other bytes than there are."""
    if name not in archive.namelist():
        return  # an array that is not NumPy's: what it is, NumPy says
    entry = archive.getinfo(name)
    if entry.file_size > _LARGEST_RATIO * max(entry.compress_size, 1):
        raise _damaged(path, f"{name} would have {entry.file_size:,} bytes, of {entry.compress_size:,} stored")
    with archive.open(entry) as stored:
        try:
            read_header = _READERS.get(np.lib.format.read_magic(stored))
            shape, _, dtype = read_header(stored) if read_header is not None else ((), None, np.dtype(object))
            header = stored.tell()
        except ValueError:
            return  # what is wrong with it, NumPy says when it is read
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != entry.file_size - header:
        raise _damaged(path, f"{name} says {shape} of {dtype}, and has {entry.file_size - header:,} bytes")


def _damaged(path, what):
    return ValueError(errors.message("Expected an .npz file that is whole.", "Write it anew.", name=str(path), found=what))
