"""Files that are written whole or not at all."""

import os
import pathlib

from tf_reweight import errors


# Bytes of a file's name: 255, but for what a name has beside it while the file is written.
_LONGEST = 240


def write_whole(path, content):
    """Writes all of a file or nothing, also when the disk is full half-way."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        expected = f"The file must be writable; the system says: {error.strerror or error}."
        raise OSError(errors.message(expected, "Nothing was left behind.", path=str(path))) from error
    finally:
        temporary.unlink(missing_ok=True)


def as_path(name, value):
    """A path as a `pathlib.Path`; raises TypeError for what is none."""
    try:
        return pathlib.Path(value)
    except TypeError:
        raise TypeError(errors.message(f"`{name}` must be a path.", "Pass a str or a Path.", **{name: value})) from None


def checked_path(path):
    """`path` as a `pathlib.Path`; raises unless a file can be written there, so that no work is done for nothing."""
    path = as_path("path", path).expanduser()
    if "\0" in str(path) or len(os.fsencode(path.name)) > _LONGEST:
        fix = "Choose another."
        raise ValueError(errors.message("The name of `path` must be one that file systems take.", fix, path=str(path)))
    if path.suffix != ".tflite":
        raise ValueError(errors.message("`path` must end in .tflite.", "Phones' tools go by it.", path=str(path)))
    if not path.parent.is_dir():
        raise FileNotFoundError(errors.message("The folder of `path` must exist.", "Create it first.", path=str(path)))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise OSError(errors.message("`path` must be a file in a writable folder.", "Choose another.", path=str(path)))
    return path


def write_text(path, text):
    """Writes a text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    os.replace(temporary, path)
