"""Which kernels a structure is applied to: what the user named, what fits, and why the rest is left out."""

import dataclasses
import functools

from tf_reweight import errors
from tf_reweight.kernels import selectors
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
            `layer -> bool`, or a list of these; see `kernels.selectors`. A layer named exactly must have a kernel that can be
            pruned so, else it is an error; what else matches and cannot be pruned is left out and named.

    Returns:
        `(list of Selected, list of kernels.table.LeftOut)`.

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
        exact = [rule for rule in matches if rule.exact(target)]
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
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in (skipped + left_out)[:6])
        raise ValueError(
            errors.message(
                f"No kernel of the model can have the structure {structure.name!r}.",
                f"{reasons or 'It has no kernels'}.",
                model=model.name,
            )
        )
    return selected, left_out + skipped


def frozen_among(targets, include_frozen, verb):
    """Those of the kernels that are to stay as they are since their layers are frozen, as `LeftOut`, with a warning.

    Args:
        targets: list of `Target`.
        include_frozen: whether frozen ones are changed like the others; then none is to stay.
        verb: what is done to kernels: `"prune"`.

    Raises:
        ValueError: when all are to stay.
    """
    frozen = [] if include_frozen else list(dict.fromkeys(t.name for t in targets if not t.variable.trainable))
    if frozen and len(frozen) == len({target.name for target in targets}):
        expected = f"At least one kernel to {verb} must be trainable."
        fix = f"Set `layer.trainable = True`, or pass include_frozen=True to {verb} frozen layers too."
        raise ValueError(errors.message(expected, fix, frozen=frozen[:5]))
    if frozen:
        errors.warn(
            f"{len(frozen)} kernels of layers with trainable=False are left as they are ({', '.join(frozen[:5])}); pass "
            f"include_frozen=True to {verb} them too.",
        )
    return [LeftOut(name, f"its layer has trainable=False; include_frozen=True {verb}s it too") for name in frozen]


@dataclasses.dataclass(frozen=True, eq=False)
class _Rule:
    """One selector, or none for all kernels."""

    selector: object = None

    def matches(self, target):
        return self.selector is None or selectors.matches(self.selector, selectors.Candidate.of(target))

    def exact(self, target):
        return self.selector is not None and selectors.names_exactly(self.selector, selectors.Candidate.of(target))


def _rules(layers, found, left_out):
    if layers is None:
        return [_Rule()]
    candidates = [selectors.Candidate.of(target) for target in found]
    taken = {name for item in left_out for name in (item.name, item.name.rsplit("/", 1)[0])}
    # A layer that cannot be pruned has its name all the same.
    rules = [
        _Rule(selectors.Exactly(item) if selectors.is_glob(item) and item in taken else selectors.named(item, candidates))
        for item in selectors.listed(layers)
    ]
    for rule in rules:
        name = getattr(rule.selector, "name", rule.selector)  # of a layer
        if isinstance(name, str) and not any(rule.matches(target) for target in found):
            _raise_unmatched(rule.selector, name, found, left_out)
    return rules


def _raise_unmatched(selector, name, found, left_out):
    for item in left_out:
        if name in (item.name, item.name.rsplit("/", 1)[0]):
            raise ValueError(
                errors.message("A layer named in `layers` must be prunable.", f"It is not: {item.reason}.", layers=name)
            )
    names = {target.name if name == target.name else target.path for target in found}
    raise ValueError(selectors.unmatched("layers", selector, names))
