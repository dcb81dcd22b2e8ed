"""How a run finds its zeros: reweighting, or one of the baselines with the same rules, the same epochs and the same report."""

import dataclasses

from tf_reweight import errors, registry, structures
from tf_reweight.workflow.methods.base import Method
from tf_reweight.workflow.methods.penalised import Lasso, MultiGradient, Reweighted
from tf_reweight.workflow.methods.unpenalised import Admm, Clipping, Deadline, Gradual, Iterative, OneShot

# Keys of reweighting that older configurations have in `regularize` itself.
BESIDE = ("penalty", "growth", "restart", "epsilon", "solver", "step")
# Keys of `prune` of which each says how much goes.
AMOUNTS = ("threshold", "sparsity", "macs", "budget")
_BY_NAME = {cls.name: cls for cls in (Reweighted, Lasso, MultiGradient, Admm, Gradual, Clipping, OneShot, Deadline, Iterative)}


def names():
    """The names that `get` and every config accept."""
    return tuple(_BY_NAME)


def get(identifier):
    """A method from a name, a config `{"name": ..., **fields}`, or a method itself.

    Example:
        >>> get({"name": "admm", "rho": [1e-4, 1e-2]})
        Admm(rho=(0.0001, 0.01), every=1)
    """
    return registry.build("method", Method, _BY_NAME, identifier)


def register(cls):
    """Teaches the table a method of yours, so that `regularize.method` of a configuration knows it by its name.

    Args:
        cls: a frozen dataclass derived from `Method`, with a `name` and `callbacks`; see docs/extending.md.

    Returns:
        The class, so that this can decorate it.

    Example:
        >>> register(MyMethod)
        >>> compress({"regularize": {"method": "my_method"}, "prune": {"sparsity": 0.8}})
    """
    return registry.add("method", Method, _BY_NAME, cls)


def gathered(values):
    """The section `regularize` with what belongs to the method in the method's own mapping.

    Older configurations have these keys beside `method`, which reads well where the method is reweighting.

    Raises:
        ValueError: for a key that the method does not have, and for one that stands in both places.
    """
    beside = {key: value for key, value in values.items() if key in BESIDE and value is not None}
    method = values.get("method", Reweighted.name)
    method = {"name": method} if isinstance(method, str) else method
    rest = {key: value for key, value in values.items() if key not in BESIDE}
    # What is no method is refused afterwards; its name need not even have a hash.
    if not beside or not isinstance(method, dict) or method.get("name") not in names():
        return rest
    twice = [key for key in beside if key in method]
    if twice:
        expected = f"`{twice[0]}` must be said once, in `method`."
        raise ValueError(errors.message(expected, f"Leave out regularize.{twice[0]}.", method=method, regularize=beside))
    unread = [key for key in beside if key not in fields(method["name"])]
    if unread:
        raise ValueError(_unread(method["name"], {f"regularize.{key}": beside[key] for key in unread}))
    return rest | {"method": {**method, **beside}}


def override(path, value):
    """`(path, value)` of an override of a resolved configuration, in which every key of a method is in its own mapping."""
    if len(path) == 2 and path[0] == "regularize" and path[1] in BESIDE:
        return ["regularize", "method", path[1]], value
    if path == ["regularize", "method"] and isinstance(value, str):
        return path, {"name": value}
    return path, value


def fields(name):
    """The keys of a method's own mapping, beside `name`."""
    return tuple(field.name for field in dataclasses.fields(_BY_NAME[name]))


def check(settings, amount):
    """Raises where the sections `regularize` and `prune` of a configuration do not go together."""
    method = get(settings.method)
    if not method.penalises and len(settings.rules) != 1:
        fix = "Drop all rules but one, or use reweighting."
        raise ValueError(errors.message(f"The method {method.name!r} takes one rule.", fix, rules=len(settings.rules)))
    if settings.coupled is not None and not method.couples:
        fix = f"Drop `coupled`, or choose one of: {', '.join(name for name in names() if _BY_NAME[name].couples)}."
        raise ValueError(errors.message(f"The method {method.name!r} takes single kernels.", fix, coupled={}))
    _check_amount(method, settings, amount)
    unread = dict(_not_read(method, settings, amount))
    if unread:
        raise ValueError(_unread(method.name, unread))
    method.check(settings, amount)


def _check_amount(method, settings, amount):
    """Whether a method that has to be told how much goes is told, and one that finds out itself, or whose structure does, is
    not."""
    decides = settings.coupled is None and all(structures.get(rule.structure).decides for rule in settings.rules)
    given = {key: getattr(amount, key) for key in AMOUNTS if getattr(amount, key) is not None}
    if decides and given:
        fix = f"Leave {', '.join(f'prune.{key}' for key in given)} out, or choose another structure."
        raise ValueError(errors.message("How much goes is for the structure to say.", fix, **given))
    if method.penalises:
        return
    told = any(key in given for key in ("sparsity", "budget", "macs") if key in method.of_prune)
    if method.needs_sparsity and not told and not decides:
        fix = "Set prune.sparsity: only a penalty finds out by itself."
        raise ValueError(errors.message(f"The method {method.name!r} must be told how much goes.", fix, sparsity=None))
    if amount.sparsity is not None and not method.needs_sparsity:
        fix = "Leave prune.sparsity out."
        expected = f"How much goes is for the method {method.name!r} to say."
        raise ValueError(errors.message(expected, fix, sparsity=amount.sparsity))


def _not_read(method, settings, amount):
    """The keys that a configuration says and the method does not read, with their values."""
    parts = [(f"regularize.rules.{number}", rule, method.of_rule) for number, rule in enumerate(settings.rules)]
    parts += [] if settings.coupled is None else [("regularize.coupled", settings.coupled, method.of_coupled)]
    parts += [("prune", amount, method.of_prune)]
    for path, section, read in parts:
        for key in type(section).model_fields:
            if getattr(section, key) is not None and key not in (*read, "structure", "layers"):
                yield f"{path}.{key}", getattr(section, key)


def _unread(name, keys):
    """The error text for keys of a configuration that a method does not read."""
    expected = f"Every key must be of use to the method {name!r}, whose own are: {', '.join(fields(name)) or '(none)'}."
    return errors.message(expected, f"Leave out {', '.join(keys)}, or choose another method.", **keys)
