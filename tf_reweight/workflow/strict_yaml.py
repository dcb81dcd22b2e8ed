"""YAML as PyYAML's safe loader reads it, but that a key may come once only: PyYAML keeps the last one in silence."""

import yaml


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
        yaml.YAMLError: for text that is no YAML, and a key that comes twice in a mapping.

    Example:
        >>> load("train: {epochs: 1}")
        {'train': {'epochs': 1}}
    """
    return yaml.load(text, _Loader)
