"""Keeps TensorFlow's noise out of the terminal, and the lines of code that warnings are about where it is no user's."""

import contextlib
import os
import subprocess
import sys
import warnings

from tf_reweight.cli import noise


@contextlib.contextmanager
def quiet():
    """While it is open, what is written to stderr, by native code above all, goes through `noise`.

    A process of its own reads it, so that the last words of native code that aborts are not lost. Where stderr is closed
    nothing is done.
    """
    try:
        real = os.dup(2)
    except OSError:
        yield
        return
    sys.stderr.flush()
    # In a session of its own: Ctrl-C is for the run, whose last lines still have to pass.
    command = [sys.executable, "-I", "-S", noise.__file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=real, start_new_session=True)
    os.dup2(process.stdin.fileno(), 2)
    try:
        with _warnings_in_words():
            yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)  # a child of the run may still hold its stderr


@contextlib.contextmanager
def _warnings_in_words():
    """While it is open, a warning about no line but the command's own is printed as `warning: ...` and nothing more."""
    usual, own = warnings.formatwarning, getattr(sys.modules["__main__"], "__file__", None)

    def said(message, category, filename, lineno, line=None):
        if filename in (own, "sys"):  # the second where no caller is a user's
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = said
    try:
        yield
    finally:
        warnings.formatwarning = usual
