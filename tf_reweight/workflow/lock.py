"""One process on a run folder at a time."""

import os

from tf_reweight import errors, files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


class Lock:
    """Holds a folder for this process; the operating system lets go of it when the process dies, however it dies.

    Args:
        folder: a `pathlib.Path`, which is made where it is missing.

    Raises:
        ValueError: when another process is at work there.
    """

    def __init__(self, folder):
        self._path, self._file = folder / LOCK, None
        files.make_folder(folder)

    def __enter__(self):
        while self._file is None:
            with files.said(self._path):
                file = open(self._path, "a+", encoding="utf-8")
            if not self._taken(file):
                file.close()
                break
            if files.stands_at(file, self._path):
                self._file = file
            else:
                file.close()  # its last holder removed it between our two calls
        if self._file is not None:
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        return self

    def __exit__(self, *error):
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _taken(self, file):
        """Whether the lock is ours now; False where there are none here."""
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "not known yet"
            file.close()
            fix = "Wait until it ends, or choose another folder with --out (out=)."
            expected = "No other process may be at work in the run folder."
            if holder == str(os.getpid()):
                expected = "No other thread of this process may be at work in the run folder."
            raise ValueError(errors.message(expected, fix, out=str(self._path.parent), process=holder)) from None
        except OSError:
            pass  # said below
        errors.warn(
            f"The file system of {self._path.parent} knows no locks: nothing hinders a second process from working in the same "
            "run folder. Start only one.",
        )
        return False
