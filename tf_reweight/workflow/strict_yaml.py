"""YAML as PyYAML's safe loader reads it, but that a key may come once only, and that names for parts make nothing huge.

PyYAML keeps the last of two keys in silence, and reads `{a:1}` as a key without a value; a few lines of aliases of aliases
become a value that no program ends to print.
"""

import yaml


# Far above any configuration, and below what takes PyYAML more than seconds to look through.
_MOST_VALUES, _MOST_CHARACTERS = 100_000, 1_000_000
_SHOWN = 60


class _Unreadable(yaml.YAMLError):
    """A value that looks like one of a type and is none, as a date in the month 13."""

    def __init__(self, node, reason):
        super().__init__(reason)
        self.node, self.reason = node, reason


class _Loader(yaml.SafeLoader):
    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # of Python's own types, which PyYAML lets through
            raise _Unreadable(node, f"{type(error).__name__}: {error}") from error

    def construct_yaml_int(self, node):
        # YAML 1.1 reads 1:30 in base 60, and 010 in base 8; who writes them means neither 90 nor 8.
        digits = str(node.value).lstrip("+-")
        if ":" in digits or len(digits) > 1 and digits[0] == "0" and digits[1] not in "bxBX":
            taken = super().construct_yaml_int(node)
            raise _Unreadable(node, f"YAML 1.1 takes it for {taken}: write a decimal number, or quote it")
        return super().construct_yaml_int(node)

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        # Before keys of other mappings are merged in (`<<`), which those of the mapping itself may replace.
        for key, value in node.value:
            _check_colon(key, value)
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} comes twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def _check_colon(key, value):
    """Raises for `{a:1}`, which YAML reads as a key `a:1` without a value."""
    is_plain = all(isinstance(node, yaml.ScalarNode) and node.style is None for node in (key, value))
    name, colon, rest = key.value.partition(":") if is_plain and not value.value else ("", "", "")
    if name and colon and rest:
        reason = f"YAML wants a space after the colon: `{name}: {rest[:_SHOWN]}`"
        raise yaml.composer.ComposerError(None, None, reason, key.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load(text):
    """What a text holds.

    Raises:
        yaml.YAMLError: for text that is no YAML, a key that comes twice in a mapping or has no space behind its colon, a value
            that cannot be read (the key is named), one that is a part of itself, and one of more than 100,000 parts, each
            counted as often as it is named, or a million characters.

    Example:
        >>> load("train: {epochs: 1}")
        {'train': {'epochs': 1}}
    """
    if len(text) > _MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {_MOST_CHARACTERS:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _num_values(node, {})
        return loader.construct_document(node)
    except _Unreadable as error:
        value = error.node.value if error.node.id == "scalar" else error.node.tag
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}... ({len(value):,} characters)"
        key = ".".join(_path_to(error.node, node) or ["(top level)"])
        raise yaml.YAMLError(f"`{key}` has a value that cannot be read, {shown}; {error.reason}") from None
    finally:
        loader.dispose()


def _path_to(node, start):
    """The keys that lead from one node to another, as texts; None where none do."""
    if node is start:
        return []
    if start.id == "scalar":
        return None
    named = [(str(number), part, part) for number, part in enumerate(start.value)]
    if start.id == "mapping":
        named = [(str(key.value)[:_SHOWN], key, part) for key, part in start.value]
    for name, key, part in named:
        below = [] if key is node else _path_to(node, part)
        if below is not None:
            return [name, *below]
    return None


def _num_values(node, known):
    """How many values a node stands for, its aliases written out.

    Args:
        known: the numbers of nodes that were counted, by their ids; None for one that is being counted.
    """
    if id(node) in known:
        if known[id(node)] is None:
            raise yaml.composer.ComposerError(None, None, "a value is a part of itself", node.start_mark)
        return known[id(node)]
    known[id(node)] = None
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    flat = [item for part in parts for item in (part if type(part) is tuple else (part,))]
    known[id(node)] = 1 + sum(_num_values(item, known) for item in flat)
    if known[id(node)] > _MOST_VALUES:
        raise yaml.composer.ComposerError(None, None, f"more than {_MOST_VALUES:,} values", node.start_mark)
    return known[id(node)]
