"""Files that are written whole or not at all."""

import os
import pathlib

from tf_reweight import errors


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


def checked_path(path):
    """`path` as a `pathlib.Path`; raises unless a file can be written there, so that no work is done for nothing."""
    path = pathlib.Path(path).expanduser()
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
