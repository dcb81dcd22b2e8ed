"""Keeps TensorFlow's noise out of the terminal."""

import contextlib
import os
import subprocess
import sys

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
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)  # a child of the run may still hold its stderr
