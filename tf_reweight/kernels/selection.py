"""Which kernels a structure is applied to: what the user named, what fits, and why the rest is left out."""

import collections.abc
import dataclasses
import fnmatch
import functools

import keras

from tf_reweight import errors
from tf_reweight.kernels.table import LeftOut, Target, find, output_paths
from tf_reweight.structures import Structure
from tf_reweight.structures import get as get_structure


@dataclasses.dataclass(frozen=True, eq=False)
class Selected:
    """A kernel and the structure that applies to it."""

    target: Target
    structure: Structure


def select(model, structure, layers=None):
    """The kernels of `model` that `structure` applies to, and everything left out with its reason.

    Args:
        model: a built Keras model.
        structure: name, config or `Structure`.
        layers: None for all; a name or glob of layer paths (`"conv*"`, `"block1/*"`), a layer, a layer type, a predicate
            `Target -> bool`, or a list of these. A layer named exactly must have a kernel that can be pruned so, else
            it is an error; what a glob, type or predicate matches and cannot be pruned is left out and named.

    Returns:
        `(list of Selected, list of targets.LeftOut)`.

    Raises:
        ValueError: when nothing matches, or a layer named exactly cannot have the structure.
    """
    structure = get_structure(structure)
    found, left_out = find(model)
    outputs = output_paths(model) if structure.removes_outputs else set()
    rules = _rules(layers, found, left_out)
    selected, skipped = [], []

    @functools.cache
    def learned(size):
        alike = (t for t in found if t.standard_shape[:-2] == size and any(rule.matches(t) for rule in rules))
        return structure.learn(size, (t.standard_kernel() for t in alike))

    def fit(target):
        fitted = learned(target.standard_shape[:-2]).fit(target.layout)
        return fitted, fitted.misfit(target.standard_shape)

    for target in found:
        matches = [rule for rule in rules if rule.matches(target)]
        if not matches:
            skipped.append(LeftOut(target.name, "not selected by `layers`"))
            continue
        exact = [rule for rule in matches if rule.exact]
        named = bool(exact)
        fitted, reason = fit(target)
        if reason is None and not named and target.path in outputs:
            reason = f"output layer: {structure.name} pruning would remove outputs of the model"
        if reason is None:
            selected.append(Selected(target, fitted))
        elif named and all(fit(t)[1] for t in found if t.path == target.path and any(rule.matches(t) for rule in exact)):
            raise ValueError(
                errors.message(
                    f"A layer named in `layers` must be able to have the structure {structure.name!r}: {reason}.",
                    "Leave it out or choose another structure for it.",
                    layers=target.path,
                )
            )
        else:
            skipped.append(LeftOut(target.name, reason))
    if not selected:
        raise ValueError(
            errors.message(
                f"No kernel of the model can have the structure {structure.name!r}.",
                "; ".join(f"{item.name}: {item.reason}" for item in (skipped + left_out)[:6]) + ".",
                model=model.name,
            )
        )
    return selected, left_out + skipped


@dataclasses.dataclass(frozen=True)
class _Rule:
    matches: object
    exact: bool


def _rules(layers, found, left_out):
    if layers is None:
        return [_Rule(lambda target: True, False)]
    if isinstance(layers, (list, tuple, set)):
        if not layers:
            raise ValueError(errors.message("`layers` must not be empty.", "Pass None for all layers.", layers=layers))
        return [rule for item in layers for rule in _rules(item, found, left_out)]
    if isinstance(layers, str):
        return [_name_rule(layers, found, left_out)]
    if isinstance(layers, keras.layers.Layer):
        return [_Rule(lambda target: target.layer is layers, True)]
    if isinstance(layers, type) and issubclass(layers, keras.layers.Layer):
        return [_Rule(lambda target: isinstance(target.layer, layers), False)]
    if isinstance(layers, collections.abc.Callable):
        return [_Rule(layers, False)]
    raise TypeError(
        errors.message(
            "`layers` must be None, a name or glob, a layer, a layer type, a predicate, or a list of these.",
            'For example layers="conv*".',
            layers=layers,
        )
    )


def _name_rule(name, found, left_out):
    if any(letter in name for letter in "*?["):
        rule = _Rule(lambda target: fnmatch.fnmatchcase(target.path, name) or fnmatch.fnmatchcase(target.name, name), False)
        if not any(rule.matches(target) for target in found):
            raise ValueError(errors.unknown("layers", name, [target.path for target in found]))
        return rule
    if not any(name in (target.path, target.name) for target in found):
        for item in left_out:
            if item.name == name or item.name.rsplit("/", 1)[0] == name:
                raise ValueError(
                    errors.message("A layer named in `layers` must be prunable.", f"It is not: {item.reason}.", layers=name)
                )
        raise ValueError(errors.unknown("layers", name, {target.path for target in found}))
    return _Rule(lambda target: name in (target.path, target.name), True)
