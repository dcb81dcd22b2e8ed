"""Files that are written whole or not at all, and stay so when the machine goes down."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import zipfile

from tf_reweight import errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Bytes of a file's name: 255, but for what a name has beside it while the file is written.
_LONGEST = 237
# What libraries in C say of the system where they raise errors of other kinds, such as h5py.
_ERRNO = re.compile(r"errno = (\d+)|No space left on device|File too large|Disk quota exceeded")
PARTIAL = ".*.partial*"
# How it is mended where a temporary file cannot be written.
OF_TEMPORARY = "Make room in the folder for temporary files, or set TMPDIR to another."
_MAKE_ROOM = "Nothing of this file was left behind: make room, or choose another place, and do the same again."


class NotWritten(OSError):
    """A file could not be written: the disk is full, or the system does not allow it. Nothing of it was left behind."""


@contextlib.contextmanager
def whole(path, suffix=""):
    """A path beside `path` to write to, which takes its place when all is written and lies on the disk.

    Args:
        path: a `pathlib.Path`. A symbolic link stays: the file that it leads to is written.
        suffix: of the name that is written to, for writers that go by it.

    Raises:
        NotWritten: when the disk is full half-way; what was at `path` is there as before.
    """
    path = pathlib.Path(os.path.realpath(path)) if path.is_symlink() else path
    with said(path), _claimed(path, suffix) as temporary:
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def _claimed(path, suffix):
    """A path beside `path` that no other writer of the same file has, in this process or another.

    The lock of a process that was killed is free: what it has left half-written is written over, and nothing piles up. Where
    the system knows no locks, all writers have one path.
    """
    for number in itertools.count(1):
        temporary = path.with_name(f".{path.name}.partial{number if number > 1 else ''}{suffix}")
        if fcntl is None:  # and an open file could not be renamed
            yield temporary
            return
        with open(temporary, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:
                pass  # this file system has none
            # Its last writer may have renamed it between our two calls.
            if stands_at(file, temporary):
                yield temporary
                return


def stands_at(file, path):
    """Whether an open file is the one that stands at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_whole(path, content):
    """Writes all bytes of a file or nothing, also when the disk is full half-way."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def deflate(path):
    """Compresses the parts of a zip archive in place, one piece after the other; they stay what they are.

    Args:
        path: of a file that is being written, within `whole`.
    """
    small = path.with_name(f"{path.name}.small")
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(small, "w") as other:
            for entry in archive.infolist():
                made = zipfile.ZipInfo(entry.filename, entry.date_time)
                made.compress_type, made.file_size = zipfile.ZIP_DEFLATED, entry.file_size
                with archive.open(entry) as source, other.open(made, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)
        shutil.copyfile(small, path)  # not renamed: the lock is on the file that is there
    finally:
        small.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a text file, whole or not at all."""
    write_whole(path, text.encode("utf-8"))


def append_line(path, text):
    """Adds a line to a text file; a line that an earlier process left half-written stays alone."""
    with said(path), open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        broken = size and file.read(1) != b"\n"
        file.write((b"\n" if broken else b"") + text.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def make_folder(path):
    """Makes a folder and those above it; nothing where it is there.

    Raises:
        NotWritten: when the system does not allow it, or a link in the path leads nowhere.
    """
    with said(path):
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                fix = "Remove the link, or make the folder that it leads to."
                expected = f"A link in the path of a folder must lead to one; {str(part)!r} leads to {os.readlink(part)!r}."
                raise NotWritten(errors.message(expected, fix, path=str(path)))
        path.mkdir(parents=True, exist_ok=True)


def remove_partial(folder):
    """Removes what a process that was killed has left half-written."""
    for path in folder.glob(PARTIAL):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def said(path, fix=_MAKE_ROOM):
    """Within it, what the system refuses is raised as `NotWritten` with the path."""
    try:
        yield
    except NotWritten:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        expected = f"The file must be writable; the system says: {reason}."
        raise NotWritten(errors.message(expected, fix, path=str(path))) from error


def _reason(error):
    """What the system says in an error or in those it came of; None where it says nothing."""
    seen = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno is not None:
            return error.strerror or os.strerror(error.errno)
        found = _ERRNO.search(str(error))
        if found is not None:
            return os.strerror(int(found[1])) if found[1] else found[0]
        seen.append(error)
        # Of what was raised `from None` the context is no reason.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _sync(path):
    """Waits until a file, or the names in a folder, lie on the disk, where that can be asked for."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder in which files may be made and not listed, or any folder on Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(handle)


def mark_of(path):
    """What tells the content of a file from any other, as a dict that JSON takes: its bytes and their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


# The name under which a sealed mapping has the SHA-256 of the rest.
_SEAL = "sha256"


def sealed(value):
    """A mapping as JSON reads it, with its SHA-256 in it, which tells what was changed after it was written."""
    return {**value, _SEAL: _digest_of(value)}


def unsealed(value):
    """A mapping without its seal, see `sealed`; one of an older version has none, and is taken as it is.

    Raises:
        ValueError: where something in it was changed after it was written.
    """
    rest = {name: part for name, part in value.items() if name != _SEAL}
    if value.get(_SEAL) not in (None, _digest_of(rest)):
        raise ValueError("something in it was changed after it was written")
    return rest


def _digest_of(value):
    # Whatever the spaces and lines in the file.
    return hashlib.sha256(json.dumps(value).encode("utf-8")).hexdigest()


def damage_of_zip(path):
    """What is wrong with a zip file, in words; None where all of it can be read and its checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # each flipped byte ends in another kind of error, of zipfile's or zlib's
        return str(error)
    return None if broken is None else f"the checksum of {broken} in it is wrong"


def as_path(name, value):
    """A path as a `pathlib.Path`, `~` as the home.

    Raises:
        TypeError: for what is no path.
        ValueError: for an unknown home, and a path that is longer than the system allows.
    """
    path = _path(name, value)
    try:
        os.lstat(path)
    except ValueError:  # a zero byte: what else is wrong with it, those say who read or write
        pass
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            expected = f"`{name}` must be a path that can be; the system says: {error.strerror}."
            raise ValueError(errors.message(expected, "Choose a shorter one.", file=str(path))) from None
    return path


def absolute(path):
    """A path that stays the same when the working folder becomes another, as code of the user's may make it."""
    try:
        return path.absolute()
    except FileNotFoundError:  # the working folder was removed: whoever reads or writes there says so
        return path


def _path(name, value):
    if isinstance(value, str) and not value:  # to Python the working folder
        raise ValueError(errors.message(f"`{name}` must be a path.", "Pass one; '.' is the working folder.", **{name: value}))
    try:
        return pathlib.Path(value).expanduser()
    except TypeError:
        raise TypeError(errors.message(f"`{name}` must be a path.", "Pass a str or a Path.", **{name: value})) from None
    except RuntimeError:
        fix = "Name a user of this machine after the ~, or write the whole path."
        raise ValueError(errors.message(f"The home in `{name}` must be known.", fix, **{name: str(value)})) from None


def check_is_file(path, what, **received):
    """Raises unless a file is there, and may be read.

    Args:
        path: a `pathlib.Path`.
        what: the file in words, as the beginning of a sentence.
        received: what the error says was given.

    Raises:
        FileNotFoundError: where there is none, or something else.
        OSError: where the system does not let it be read.
    """
    if not path.is_file():
        expected = f"{what} must be a file, and this is none." if os.path.lexists(path) else f"{what} must exist."
        raise FileNotFoundError(errors.message(expected, "Check the path.", **received))
    try:
        open(path, "rb").close()
    except OSError as error:
        expected, held = f"{what} must be readable; the system says: {error.strerror}.", isinstance(error, PermissionError)
        fix = "Look at who may read it." if held else "Do the same again when that is mended."
        raise type(error)(errors.message(expected, fix, **received)) from error


def folder_path(name, value):
    """The whole path of a folder, which need not be there; raises for what file systems do not take."""
    path = _path(name, value)
    if any("\0" in part or len(os.fsencode(part)) > _LONGEST for part in path.parts):
        expected = f"`{name}` must be a path that file systems take, of names of up to {_LONGEST} bytes."
        raise ValueError(errors.message(expected, "Choose another.", **{name: str(path)}))
    return absolute(as_path(name, path))


def checked_path(path):
    """`path` as a whole path; raises unless a file can be written there, so that no work is done for nothing."""
    path = _path("path", path)
    if "\0" in str(path) or len(os.fsencode(path.name)) > _LONGEST:
        fix = "Choose another."
        raise ValueError(errors.message("The name of `path` must be one that file systems take.", fix, path=str(path)))
    path = as_path("path", path)
    if path.suffix != ".tflite":
        raise ValueError(errors.message("`path` must end in .tflite.", "Phones' tools go by it.", path=str(path)))
    if not path.parent.is_dir():
        raise FileNotFoundError(errors.message("The folder of `path` must exist.", "Create it first.", path=str(path)))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise OSError(errors.message("`path` must be a file in a writable folder.", "Choose another.", path=str(path)))
    return absolute(path)
