"""What classes and functions of a user's own do, in words that are the same in every process and change with their code."""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import json
import pathlib
import sys
import sysconfig
import types
import typing

import keras

from tf_reweight.workflow.written import written

# Their code is that of a version, and what a run was done with is in its report.
_FRAMEWORKS = {"jax", "jaxlib", "keras", "numpy", "python", "tensorflow", "tf_keras", "tf_reweight", "torch"}
_INSTALLED = {"dist-packages", "site-packages"}
_OURS = pathlib.Path(__file__).resolve().parents[1]
# What a model has once it was trained in this process.
_PASSING = {"train_function", "test_function", "predict_function", "history"}
# Characters of what a file says that stand in a message.
_SHORT = 40
# Longer collections are data.
_MOST = 10_000


def of(*things):
    """Mapping of names to what each class and function of a user's own that is reached from things does: a SHA-256 in most.

    Functions are told by their code, classes by that of their methods and the names of what they inherit from; and what code
    reads of its file by name, constants of classes and defaults of arguments by what the file says, see `written`. Values
    count nowhere: times, paths and counters differ from run to run. What code reaches by the name of a module does not come
    with it. Code of packages that are installed is told where things are of their classes, without what it reads, and that of
    Keras, its backends, Python and this package not at all. A thing that cannot be looked into is passed over.

    Args:
        things: models, losses, metrics, functions, classes, and structures of them.
    """
    told, seen, todo = {}, {}, list(things)
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing  # held, so that no other object gets its place in memory
            try:
                name, what, further = _told(thing)
            except Exception:  # a class of the user's may raise anything wherever it is looked at
                continue
            if name is not None:
                told.setdefault(name, set()).add(what)
            todo += further
    # Several may have one name, as lambdas have.
    return {name: min(whats) if len(whats) == 1 else digest(sorted(whats)) for name, whats in sorted(told.items())}


def code(function):
    """What the code of a function does, without where it stands in its file."""
    parts = (code(part) if type(part) is types.CodeType else _constant(part) for part in function.co_consts)
    return [function.co_code.hex(), list(function.co_names), list(parts)]


def digest(value):
    """The SHA-256 of what JSON takes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _constant(value):
    if type(value) is tuple and frozenset in map(type, value):
        return [_constant(part) for part in value]
    return sorted(map(repr, value)) if type(value) is frozenset else repr(value)


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """What code reads of its file.

    Attributes:
        name: its name there.
        written: what the file gives to it, as text; None for what no file gives to it.
        value: what it is.
    """

    name: str
    written: str | None
    value: typing.Any


@functools.singledispatch
def _told(thing):
    """`(name, what, further)`: of a thing of the user's its name and what it does, else None; and where more may be."""
    inside = getattr(thing, "__dict__", {})
    if _home_of(type(thing)) is None:
        return None, None, [type(thing), *inside.values()]
    # A `tf.function`, or what Python keeps the results of.
    return None, None, [inside.get("_python_function"), inside.get("__wrapped__")]


@_told.register(keras.Operation)
@_told.register(keras.losses.Loss)
@_told.register(keras.Metric)
@_told.register(keras.regularizers.Regularizer)
@_told.register(keras.constraints.Constraint)
@_told.register(keras.initializers.Initializer)
@_told.register(keras.optimizers.Optimizer)
@_told.register(keras.optimizers.schedules.LearningRateSchedule)
def _(thing):
    """What Keras makes, and classes derived from it, may hold what is the user's."""
    return None, None, [type(thing), *(value for name, value in vars(thing).items() if name not in _PASSING)]


@_told.register
def _(thing: types.FunctionType):
    package = _package_of(thing.__code__.co_filename)
    if package in _FRAMEWORKS:
        return None, None, [vars(thing).get("__wrapped__")]
    defaults = written(thing.__globals__, f"{thing.__qualname__}()")
    further = [*_closed_over(thing), *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    return thing.__qualname__, digest([code(thing.__code__), defaults]), further + (_read(thing) if package is None else [])


@_told.register
def _(thing: type):
    if _home_of(thing) in _FRAMEWORKS:
        return None, None, []
    # Those of Python's own, such as the line of the class in its file, are functions or do nothing.
    own = [value for name, value in vars(thing).items() if not (name.startswith("__") and name.endswith("__"))]
    methods = [value for value in vars(thing).values() if type(value) is types.FunctionType]
    names = [base.__qualname__ for base in thing.__bases__]
    namespace = vars(sys.modules.get(thing.__module__, types))
    return thing.__qualname__, digest([names, written(namespace, thing.__qualname__)]), [*thing.__bases__, *own, *methods]


@_told.register
def _(thing: _Read):
    return None if thing.written is None else thing.name, thing.written, [thing.value]


@_told.register
def _(thing: functools.partial):
    return None, None, [thing.func, *thing.args, *thing.keywords.values()]


@_told.register
def _(thing: types.MethodType):
    return None, None, [thing.__func__, thing.__self__]


@_told.register(staticmethod)
@_told.register(classmethod)
def _(thing):
    return None, None, [thing.__func__]


@_told.register
def _(thing: property):
    return None, None, [thing.fget, thing.fset, thing.fdel]


@_told.register
def _(thing: functools.cached_property):
    return None, None, [thing.func]


@_told.register
def _(thing: keras.Variable):
    return None, None, [thing.regularizer, thing.constraint]


@_told.register(list)
@_told.register(tuple)
@_told.register(set)
@_told.register(frozenset)
def _(thing):
    return None, None, list(thing) if len(thing) <= _MOST else []


@_told.register
def _(thing: dict):
    return None, None, list(thing.values()) if len(thing) <= _MOST else []


@_told.register(types.NoneType)
@_told.register(types.ModuleType)
@_told.register(str)
@_told.register(int)
@_told.register(float)
def _(thing):
    return None, None, []


def _closed_over(function):
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty, until its name has a value
            yield cell.cell_contents


def _read(function):
    """What a function reads of its file by name."""
    namespace = function.__globals__
    found = []
    for name in sorted(_global_names(function.__code__) & namespace.keys()):
        text = written(namespace, name)
        found.append(_Read(name, (text if len(text) <= _SHORT else digest(text)) or None, namespace[name]))
    return found


@functools.lru_cache(maxsize=4096)
def _global_names(function):
    """The names of its file, or of Python, that code and the functions inside it read."""
    names = {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(part) for part in function.co_consts if type(part) is types.CodeType))


def _home_of(kind):
    """The name of the package that a class is from, see `_package_of`."""
    top = kind.__module__.partition(".")[0]
    if top in _FRAMEWORKS:  # some classes of theirs are in no file
        return top
    if top in sys.stdlib_module_names:
        return "python"
    module = sys.modules.get(kind.__module__)
    # A notebook has none.
    return _package_of(("" if module is None else vars(module).get("__file__")) or "")


@functools.lru_cache(maxsize=4096)
def _package_of(file):
    """The name of the package that a file is from, `python` for Python's own; None for code of the user's."""
    path = pathlib.PurePath(file)
    installed = [number for number, part in enumerate(path.parts[:-1]) if part in _INSTALLED]
    if installed:
        return pathlib.PurePath(path.parts[installed[-1] + 1]).stem
    if file.startswith("<frozen "):
        return "python"
    places = {pathlib.Path(keras.__file__).resolve().parent: "keras", _OURS: "tf_reweight"}
    places |= {pathlib.Path(sysconfig.get_paths()[name]): "python" for name in ("stdlib", "platstdlib")}
    return next((name for place, name in places.items() if path.is_relative_to(place)), None)
