"""Building small frozen objects from what a config file can hold: a name, or a mapping with a name."""

import dataclasses

from tf_reweight import errors


def build(kind, base, by_name, identifier):
    """An instance of `base` from an instance, a name, or `{"name": ..., **fields}`.

    Args:
        kind: what it is called in messages, which is also the argument's name.
        base: the class every entry of `by_name` derives from; instances pass through.
        by_name: mapping of name to dataclass.
        identifier: what the user wrote.

    Raises:
        TypeError: when `identifier` has none of the three forms.
        ValueError: for a name or a field that does not exist; the nearest valid one is named.
    """
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, str):
        identifier = {"name": identifier}
    if not isinstance(identifier, dict) or "name" not in identifier:
        raise TypeError(
            errors.message(
                f"`{kind}` must be a name, a mapping with a 'name', or an instance of {base.__name__}.",
                f"Names: {', '.join(by_name)}.",
                **{kind: identifier},
            )
        )
    fields = dict(identifier)
    name = fields.pop("name")
    if name not in tuple(by_name):  # what is no name may have no hash
        raise ValueError(errors.unknown(kind, name, by_name))
    cls = by_name[name]
    valid = [field.name for field in dataclasses.fields(cls)]
    for key in fields:
        if key not in valid:
            raise ValueError(errors.unknown(f"field of {kind} {name!r}", key, valid or ["(none)"]))
    return cls(**fields)


def serialize(entry, config):
    """The name of `entry` where `config` is empty, else `{"name": ..., **config}`: the form `build` reads."""
    return {"name": entry.name, **config} if config else entry.name


def add(kind, base, by_name, cls):
    """Enters a user's class into a table under its `name`, and returns it, so that it can decorate the class.

    Args:
        kind: what it is called in messages.
        base: the class it has to derive from.
        by_name: the table.
        cls: a dataclass with a `name` and all that `base` asks for.

    Raises:
        TypeError: for what is no such class.
        ValueError: for a name that another class has.
    """
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        fix = f"Derive it from {base.__name__} and decorate it with dataclasses.dataclass(frozen=True)."
        raise TypeError(errors.message(f"A {kind} must be a dataclass derived from {base.__name__}.", fix, **{kind: cls}))
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing or not isinstance(cls.name, str):
        fix = f"Write {', '.join(missing) or 'name'}."
        raise TypeError(errors.message(f"A {kind} must have all that {base.__name__} asks for.", fix, **{kind: cls}))
    if by_name.get(cls.name, cls).__qualname__ != cls.__qualname__:
        fix = "Choose another name."
        raise ValueError(errors.message(f"The name of a {kind} must be new.", fix, name=cls.name, taken_by=by_name[cls.name]))
    by_name[cls.name] = cls
    return cls
