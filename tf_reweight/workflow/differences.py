"""What differs between the run that a folder holds and the one that was asked for, in words."""

import json
import re

import yaml

from tf_reweight import errors
from tf_reweight.workflow.sections import GIVEN

# Keys that are named; of more only the number.
_MOST = 8
_MISSING = "(not said)"
# Of weights and examples a run keeps a SHA-256 in `given.json`: who reads it needs to know of what, and that it differs.
_DIGEST = re.compile("[0-9a-f]{64}")
_DIGESTED = {"weights": "the weights of the model", "layers": "the layers of the model and their settings"}
# What code of the user's does, by the name of each class and function; runs of older versions have not written that down.
CODE = "code"
_OF_CODE = f"{CODE}."


# Keys that may follow from a budget.
OF_BUDGETS = ("prune.budget", "shrink.multiple_of", "regularize.method.multiple_of")


def of_configurations(held, asked, passed_over=()):
    """Mapping of keys, as `section.key`, to `(value in the folder, value asked for)`, where they differ.

    Args:
        held, asked: resolved configurations as YAML text, of which `check_whole` takes the first.
        passed_over: keys that may differ.
    """
    if held == asked:
        return {}
    old, new = map(yaml.safe_load, (held, asked))
    # What was given, `given.json` tells; folders of older versions have the names of defaults in its place.
    names = [name for name, section in new.items() if isinstance(section, dict) and section.get("name") == GIVEN]
    for section in (old.get(name) for name in names):
        if isinstance(section, dict):
            section["name"] = GIVEN
    if names and list(old) == list(new) and old == new:
        return {}
    changed = _between(old, new)
    return {key: pair for key, pair in changed.items() if not any(f"{key}.".startswith(f"{name}.") for name in passed_over)}


def of_given(held, asked):
    """The same for what a run was given besides its configuration, JSON texts or None."""
    if held == asked:
        return {}
    old, new = (json.loads("{}" if text is None else text) for text in (held, asked))
    codes = [values.pop(CODE, None) for values in (old, new)]
    if None in codes and old == new:
        return {}
    codes = [{f"{_OF_CODE}{name}": told for name, told in (code or {}).items()} for code in codes]
    return _between(*({**values, **code} for values, code in zip((old, new), codes)))


def check_whole(path, held, asked):
    """Raises ValueError where what says which run a folder holds was damaged or cut off: that is no other run.

    Args:
        path: of the file, `config.yaml` or `given.json`.
        held: the text in it, None without the file.
        asked: the text of the run that was asked for, or None.
    """
    if held is None or held == asked:
        return
    try:
        values = (json.loads if path.suffix == ".json" else yaml.safe_load)(held)
        reason = None if isinstance(values, dict) else "it holds no mapping"
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
    if reason is None and not held.endswith("\n"):
        reason = "it was cut off"
    if reason is None and (asked or "").startswith(held):
        reason = "it was cut off between two lines, or is of another version"
    if reason is not None:
        expected = f"What says which run a folder holds must be as it was written; reading it says: {reason}."
        fix = "Put a copy of the file back, choose another folder with --out (out=), or delete this one."
        raise ValueError(errors.message(expected, fix, file=str(path)))


def told(changed):
    """The differences as one line."""
    parts = [_difference(key, *pair) for key, pair in list(changed.items())[:_MOST]]
    parts += [f"{len(changed) - _MOST} more"] if len(changed) > _MOST else []
    return "; ".join(parts)


def _difference(key, old, new):
    digests = [isinstance(value, str) and _DIGEST.fullmatch(value) for value in (old, new)]
    if not any(digests):
        key = f"{key.removeprefix(_OF_CODE)} in your code" if key.startswith(_OF_CODE) else key
        return f"{key}: {_short(old)} there, {_short(new)} now"
    there, now = (value[:8] if is_digest else _MISSING for value, is_digest in zip((old, new), digests))
    name = f"the code of {key.removeprefix(_OF_CODE)}" if key.startswith(_OF_CODE) else _DIGESTED.get(key, f"the {key}")
    return f"{name} (fingerprint {there} there, {now} now)"


def _between(held, asked):
    old, new = _flat(held), _flat(asked)
    pairs = {key: (old.get(key, _MISSING), new.get(key, _MISSING)) for key in [*old, *(key for key in new if key not in old)]}
    changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return changed or {"the text": ("another", "this")}  # written by another version


def _flat(values, path=""):
    found = {}
    for key, value in values.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
    return found


def _short(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
