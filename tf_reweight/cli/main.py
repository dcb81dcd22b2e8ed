"""The command line: `tf-reweight COMMAND ...`; what each command does is in `commands`."""

import _thread
import contextlib
import os
import re
import signal
import sys
import threading

from absl import flags

from tf_reweight.cli.arguments import told
from tf_reweight.cli.commands import COMMANDS, notes
from tf_reweight.cli.quiet import quiet

# What a shell says of a command whose output nobody reads any more.
_UNREAD = 128 + 13  # SIGPIPE, which not every system has
_SOON = 0.1  # seconds until a signal that was forgotten is sent once more
# What Keras computes with.
_BACKENDS = ("jax", "numpy", "openvino", "tensorflow", "torch")
# How absl, and Python for it, begin to say what is wrong with the value of a flag.
_REASONS = r"invalid literal|could not convert|value should be|\('Non-boolean|\S+ is not a "
# What goes on where it was cut off.
_RESUMED = tuple(COMMANDS[name][1] for name in ("compress", "sweep"))

_USAGE = """\
tf-reweight: prune and quantize Keras models, ship checked .tflite files

  tf-reweight init [FOLDER]
  tf-reweight compress --model MODEL.keras --data DATA.py:FUNCTION
                       [--structure NAME] [--budget macs=0.5] [--epochs N]
  tf-reweight compress --config FILE [--set key=value ...] [--data_dir DIR]
                       [--out DIR] [--dry_run] [--verify_arm]
  tf-reweight sweep --model MODEL.keras --data DATA.py:FUNCTION
                    --budgets macs=0.7 --budgets macs=0.4 [--epochs N]
  tf-reweight report MODEL.keras
  tf-reweight groups MODEL.keras
  tf-reweight shrink IN.keras OUT.keras [--multiple_of N]
  tf-reweight inspect FILE.tflite [--shape SIZE,SIZE,...]
  tf-reweight check FILE.tflite [--max_bytes N] [--max_ms N]
                    [--fully_accelerated]
                    [--agrees_with MODEL.keras --data DATA [--max_drop X]
                     [--tolerance X] [--mode max|min]]
  tf-reweight pack IN.tflite OUT.tflite [--zipped] [--verify_arm]
  tf-reweight arm FILE.tflite [--verify_arm]
  tf-reweight arm MODEL.keras --fix OUT.keras
  tf-reweight bundle FILE.tflite OUT.zip [--labels FILE] [--extra FILE ...]
                     [--normalization MEAN,STD] [--preprocessing WORDS]
  tf-reweight benchmark A.tflite B.tflite ... [--runs N] [--threads N]
                        [--warmup N] [--runtime compiled]
  tf-reweight explain MODEL.keras FILE.tflite --data DATA.py:FUNCTION
                      [--examples N]
  tf-reweight phone FILE.tflite --out DIR [--threads N] [--runs N]
                    [--shape SIZE,SIZE,...]
  tf-reweight phone --read LOG [--read LOG ...]

A .keras file that is read may be FILE.py:FUNCTION too, which returns a model.
Every command takes --json (figures instead of tables), --debug (the traceback
of an error) and --help. `tf-reweight compress --help` lists the keys of a
configuration, `tf-reweight --version` says which version this is.
"""


def console(argv=None):
    """Entry point of the `tf-reweight` script; returns the exit status.

    0; 1 where `check` finds faults; 2 for errors and wrong usage, and for output that cannot be written, as on a full disk; 130
    and 143 when it was ended by SIGINT or SIGTERM, 141 when nobody read its output to the end, as with `| head`.
    """
    _open_closed_streams()
    try:
        status = _status(argv)
    except OSError:
        # What could not be written is lost: another line tells whether it was this output.
        lost = _unwritten("\n")
        if lost is None:
            raise
        return _told_of(lost)
    lost = _unwritten("")
    return status if lost is None else _told_of(lost)


def _open_closed_streams():
    """Sends stdout and stderr to nowhere where the caller has closed them: printing works, and no file gets their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.fstat(number)
            except OSError:
                os.dup2(nowhere, number)
            setattr(sys, name, open(nowhere, "w", encoding="utf-8"))


def _unwritten(text):
    """The error of the system where what is printed, as this text, cannot be written; from then on it goes nowhere."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # Python flushes what is left once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _tell(text):
    """Prints to stderr. Where that cannot be written, as on a full disk, the exit status says all that can be said."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _told_of(lost):
    """The status for output that could not be written, which is said unless nobody reads it any more."""
    if isinstance(lost, BrokenPipeError):
        return _UNREAD
    from tf_reweight import errors

    expected = f"What is printed must be writable; the system says: {lost.strerror}."
    _tell("error: " + errors.message(expected, "Make room, or send it elsewhere.", output="stdout"))
    return 2


def _status(argv):
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if argv else 2
    if argv[0] == "--version":
        from tf_reweight._version import __version__

        print(f"tf-reweight {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        from tf_reweight import errors

        _tell(errors.unknown("command", argv[0], COMMANDS))
        return 2
    define, run = COMMANDS[argv[0]]
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "print the figures as JSON", flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    define(values)
    for name in values:
        values[name].allow_overwrite = values[name].boolean  # of two values the last would win
    try:
        positional = values(argv)[1:]
    except (flags.Error, ValueError) as error:  # absl has the second for a value behind --noFLAG
        _tell(f"error: {_told_of_flags(error, values)}\n\n{_usage_of(argv[0])}")
        return 2
    if "" in positional:
        from tf_reweight import errors

        expected, fix = "No argument may be empty.", "Pass a path; '.' is the working folder."
        _tell("error: " + errors.message(expected, fix, arguments=positional))
        return 2
    if values.help:
        print(f"{_usage_of(argv[0])}\n{_flags_of(values)}")
        print(notes(argv[0]), end="")
        return 0
    return _guarded(run, values, positional)


def _told_of_flags(error, values):
    """What absl says of wrong flags, in the form of our own errors.

    Args:
        error: absl's.
        values: the flags of the command.
    """
    from tf_reweight import errors

    twice = re.fullmatch("flag --([^=]*)=(.*): already defined as (.*)", str(error), re.DOTALL)
    if twice is not None:
        name, second, first = twice.groups()
        return errors.message(f"--{name} must be given once.", "Leave one of them out.", **{name: [first, second]})
    if isinstance(error, flags.UnrecognizedFlagError):
        return errors.unknown("flag", error.flagname, [name for name in values if len(name) > 1])
    forms = (
        f"flag --([^=]*)=(.*?): (?:{_REASONS}).*", "Missing value for flag --?(.*)()",
        "--no([^=]*)=(.*) does not take an argument",
    )  # fmt: skip
    wrong = next(filter(None, (re.fullmatch(form, str(error), re.DOTALL) for form in forms)), None)
    if wrong is None or wrong[1] not in values:
        return error
    name, flag = wrong[1], values[wrong[1]]
    return errors.message(f"--{name} must be {_taken_by(flag)}.", f"It says: {flag.help}.", **{name: wrong[2]})


def _taken_by(flag):
    """What values a flag has, in words."""
    if flag.boolean:
        return f"given alone, as --{flag.name} or --no{flag.name}, or as true or false"
    if flag.flag_type() == "string enum":
        return f"one of {', '.join(flag.parser.enum_values)}"
    kind = {"int": "a whole number", "float": "a number"}.get(flag.flag_type())
    if kind is None:
        return "followed by a value"
    low = flag.parser.lower_bound
    return kind if low is None else f"{kind} >= {low:g}"


def _usage_of(command):
    """The lines of the usage that are about one command."""
    lines, own = [], False
    for line in _USAGE.splitlines():
        begins = line.startswith("  tf-reweight ")
        own = begins and line.split()[1] == command or own and not begins and line.startswith("   ")
        lines += [line] * own
    return "\n".join([*lines, "", "`tf-reweight --help` has all commands."])


def _flags_of(values):
    """What absl says of all flags, without the modules that define them."""
    return "\n".join(line for line in values.get_help().splitlines() if not line.startswith("tf_reweight."))


@contextlib.contextmanager
def _ended_by_signals():
    """Within it, SIGTERM ends the command as Ctrl-C does, so that what it has begun to write is removed.

    What a signal raises while a destructor runs, of which TensorFlow has many, Python prints and forgets: the signal is then
    sent once more.
    """
    pending = []

    def end(number, frame):
        raise KeyboardInterrupt(number)

    def forgotten(found):
        if not issubclass(found.exc_type, KeyboardInterrupt):
            hook(found)
            return
        number = found.exc_value.args[0] if found.exc_value is not None and found.exc_value.args else signal.SIGINT
        pending.append(threading.Timer(_SOON, _send, (number,)))
        pending[-1].daemon = True
        pending[-1].start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = forgotten
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in pending:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)


def _send(number):
    """Sends a signal to the main thread, which wakes it where it waits; Windows ends a process that is sent one."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        _thread.interrupt_main(number)


def _guarded(run, values, positional):
    """Runs a command with TensorFlow quiet; of an error its text alone is printed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    backend = os.environ["KERAS_BACKEND"]
    if backend and backend not in _BACKENDS:
        from tf_reweight import errors

        _tell("error: " + errors.unknown("KERAS_BACKEND", backend, _BACKENDS))
        return 2
    try:
        with _ended_by_signals(), contextlib.nullcontext() if values.debug else quiet():
            return _ran(run, values, positional)
    except KeyboardInterrupt as error:
        goes_on = ": the same command goes on from here" if run in _RESUMED else ""
        _tell(f"\nended{goes_on}.")
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except BrokenPipeError:
        raise
    except Exception as error:
        lost = _unwritten("\n") if isinstance(error, OSError) and error.errno and error.filename is None else None
        if lost is not None:
            return _told_of(lost)
        if values.debug:
            raise
        _tell(f"error: {told(error)}")
        return 2


def _ran(run, values, positional):
    """The status of a command. Code of the user's that ends the program does not decide it: a gate would be passed."""
    from tf_reweight import errors

    try:
        return run(values, positional)
    except SystemExit as error:
        expected = "Code of a model or of data must not end the program."
        fix = 'Take it out, or put it under `if __name__ == "__main__":`.'
        raise RuntimeError(errors.message(expected, fix, exit=error.code)) from error


if __name__ == "__main__":
    sys.exit(console())
