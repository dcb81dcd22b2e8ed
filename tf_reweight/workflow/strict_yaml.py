"""YAML as PyYAML's safe loader reads it, but that a key may come once only, and that names for parts make nothing huge.

PyYAML keeps the last of two keys in silence; a few lines of aliases of aliases become a value that no program ends to print.
"""

import yaml


# Far above any configuration, and below what takes PyYAML more than seconds to look through.
_MOST_VALUES, _MOST_CHARACTERS = 100_000, 1_000_000


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        # Before keys of other mappings are merged in (`<<`), which those of the mapping itself may replace.
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} comes twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def load(text):
    """What a text holds.

    Raises:
        yaml.YAMLError: for text that is no YAML, a key that comes twice in a mapping, a value that is a part of itself, and one
            of more than 100,000 parts, each counted as often as it is named, or a million characters.

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
    finally:
        loader.dispose()


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
