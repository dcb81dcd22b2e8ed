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
    if name not in by_name:
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
