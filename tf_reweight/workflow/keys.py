"""Every key of a configuration with its type, range and default, read from the sections themselves."""

import dataclasses
import inspect
import re
import types
import typing

import annotated_types
import pydantic

from tf_reweight.workflow import methods
from tf_reweight.workflow.config import Config

_RANGES = {annotated_types.Ge: ("ge", ">="), annotated_types.Gt: ("gt", ">"), annotated_types.Le: ("le", "<="),
           annotated_types.Lt: ("lt", "<")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Key:
    """One key: its path, what it may be, its default."""

    path: str
    kind: str
    default: str


@dataclasses.dataclass(frozen=True)
class Group:
    """The keys of one section, with what the section says of itself."""

    name: str
    about: str
    keys: tuple[Key, ...]


def groups():
    """The sections of a configuration in order, the keys outside of all first."""
    found, top = [], []
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            top.append(_key(name, field))
        else:
            found += _groups(name, section)
    return [Group("", inspect.getdoc(Config), tuple(top)), *found, *map(_method, methods.names())]


def listing():
    """All keys as plain lines of at most 80 columns."""
    lines = ["Keys of a configuration, each also for --set section.key=value:"]
    for group in groups():
        lines += ["", *([f"{group.name}:"] if group.name else [])]
        for key in group.keys:
            line = f"  {key.path.rpartition('.')[2]:<16} {key.kind}, default {key.default}"
            lines.append(line if len(line) <= 80 else f"{line[:77]}...")
    return "\n".join(lines)


def _groups(path, section):
    """A section, and those inside it."""
    own, inside = [], []
    for name, field in section.model_fields.items():
        below = _section(field.annotation)
        own.append(_key(f"{path}.{name}", field))
        inside += [] if below is None else _groups(f"{path}.{name}", below)
    return [Group(path, inspect.getdoc(section), tuple(own)), *inside]


def _method(name):
    """The settings that a method of `regularize` has of its own."""
    method = methods.get(name)
    own = [(field.name, _words(field.type), getattr(method, field.name)) for field in dataclasses.fields(method)]
    keys = tuple(Key(f"regularize.method.{key}", kind, _plain(value)) for key, kind, value in own)
    return Group(f"regularize.method, name: {name}", inspect.getdoc(type(method)).partition("\n")[0], keys)


def _section(annotation):
    """The section that a key holds, alone, in a list or optional; None where it holds a value."""
    for part in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(part) and issubclass(part, pydantic.BaseModel):
            return part
    return None


def _key(path, field):
    limits = [(_RANGES[type(item)], item) for item in field.metadata if type(item) in _RANGES]
    ranges = " and ".join(f"{sign} {getattr(item, name)}" for (name, sign), item in limits)
    kind = _words(field.annotation)
    return Key(path, f"{kind} {ranges}".strip(), _default(field))


def _default(field):
    value = field.get_default(call_default_factory=True)
    if isinstance(value, pydantic.BaseModel) or value and isinstance(value, list) and isinstance(value[0], pydantic.BaseModel):
        return "as below"
    return _plain(value)


def _plain(value):
    """A value as YAML has it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _words(annotation):
    """A type as a reader of YAML calls it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_words(arg) for arg in args if arg is not type(None))
    if origin is list:
        return f"list of {_words(args[0])}"
    if origin is dict:
        return f"mapping of {_words(args[0])} to {_words(args[1])}"
    if annotation is typing.Any:
        return "value"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true | false", "NoneType": "none"}
    return names.get(annotation.__name__, re.sub("(?<!^)(?=[A-Z])", " ", annotation.__name__).lower())
