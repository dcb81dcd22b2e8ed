"""JSON that every reader takes, where Python's own would hold NaN and Infinity."""

import json
import math


def to_json(value, indent=None, default=None):
    """Figures as JSON; numbers that are not finite are null.

    Args:
        value: anything that `json.dumps` takes.
        indent, default: as of `json.dumps`.
    """
    return json.dumps(_finite(value), indent=indent, default=None if default is None else lambda item: _finite(default(item)))


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
