"""What was measured of files: told while it takes its time, and kept, so that a run that is cut off does not do it again."""

import contextlib
import contextvars
import hashlib
import json
import time

from tf_reweight import files

# Of files that take so many seconds each is told, of quicker ones only that they are measured.
_LONG = 2.0
_NOW = contextvars.ContextVar("measurements", default=None)


@contextlib.contextmanager
def kept(path, say):
    """Within it what is measured of files is told, and kept in a file that the next process finds.

    Args:
        path: a `pathlib.Path`; its folder is made with the first measurement.
        say: function of a line of text.
    """
    token = _NOW.set(_Kept(path, say))
    try:
        yield
    finally:
        _NOW.reset(token)


def tell(text):
    """Says a line where somebody listens."""
    if _NOW.get() is not None:
        _NOW.get().say(text)


def once(mark, name, function):
    """What a function measures, a dict of numbers; what is known from before is not measured again.

    Args:
        mark: function to a list of bytes that tell what is measured from all else; None where nothing tells it.
        name: of it, in words.
        function: measures it.
    """
    kept = _NOW.get()
    return function() if kept is None else kept.once(mark, name, function)


class _Kept:
    """What was measured, by a digest of what it was measured of."""

    def __init__(self, path, say):
        self._path, self.say, self._known = path, say, _read(path)

    def once(self, mark, name, function):
        parts = None if mark is None else mark()
        key = None if parts is None else _digest(parts)
        if key in self._known:
            return self._known[key]
        started = time.monotonic()
        found = function()
        seconds = time.monotonic() - started
        if seconds >= _LONG:
            amounts = ", ".join(f"{quantity} {amount:,.10g}" for quantity, amount in found.items())
            self.say(f"{name}: {amounts}; {seconds:.0f} s")
        if key is not None:
            self._known[key] = found
            files.make_folder(self._path.parent)
            files.write_text(self._path, json.dumps(files.sealed(self._known), indent=1) + "\n")
        return found


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _read(path):
    """What was kept before; nothing of a file that is not there or was damaged."""
    try:
        return files.unsealed(json.loads(path.read_bytes()))
    except (OSError, ValueError, AttributeError):
        return {}
