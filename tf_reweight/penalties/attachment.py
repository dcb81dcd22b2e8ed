"""Putting penalties on the kernels of a built model, finding them again, and taking them off."""

import collections
import dataclasses
from collections.abc import Callable

import keras

from tf_reweight import budget as budgets
from tf_reweight import errors
from tf_reweight.graph import one_fit
from tf_reweight.graph.checking import check_eager, check_trained_finite, check_layer
from tf_reweight.graph.distribution import beside
from tf_reweight.graph.walking import comes_back
from tf_reweight.kernels import filed
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.constraints import remove
from tf_reweight.kernels.nonzeros import check_within_reach
from tf_reweight.kernels.own_calls import warn_of_own_calls
from tf_reweight.kernels.selection import select
from tf_reweight.kernels.selectors import Layers
from tf_reweight.kernels.table import LeftOut, Target, find
from tf_reweight.kernels.traced import renew_steps
from tf_reweight.penalties import prices
from tf_reweight.penalties.base import KernelPenalty, bind, parts_of, removed, replaced
from tf_reweight.penalties.budgeted import Budgeted
from tf_reweight.penalties.functions import PenaltyLike
from tf_reweight.penalties.projections import keep, settle
from tf_reweight.penalties.reweighted import Combined, Reweighted
from tf_reweight.penalties.soft_threshold import SoftThreshold
from tf_reweight.records import Report
from tf_reweight.structures import StructureLike
from tf_reweight.structures import get as get_structure


@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
    """A bound penalty and the kernel it acts on."""

    target: Target
    regularizer: KernelPenalty


@dataclasses.dataclass(frozen=True, eq=False)
class Attached(Report):
    """What `regularize` did: the penalties in force now, and what was left out with its reason."""

    attachments: tuple[Attachment, ...]
    left_out: tuple[LeftOut, ...]

    def to_dict(self):
        """The penalties in force as their configurations, and what was left out."""
        return {
            "kernels": [
                {"name": item.target.name, "class": type(item.regularizer).__name__, **item.regularizer.get_config()}
                for item in self.attachments
            ],
            "left_out": [dataclasses.asdict(item) for item in self.left_out],
        }

    def __str__(self):
        lines = [f"{a.target.name}: {a.regularizer.structure.name}" for a in self.attachments]
        lines += [f"{item.name}: left out, {item.reason}" for item in self.left_out]
        return "\n".join(lines)


def regularize(
    model: keras.Model,
    structure: StructureLike = "unstructured",
    strength: float | None = None,
    penalty: PenaltyLike = "log_sum",
    *,
    budget: budgets.Budget | dict | str | None = None,
    layers: Layers = None,
    price: float | str | Callable[[Target], float] = 1.0,
) -> Attached:
    """Puts the reweighted penalty on a built or loaded model, in place; weights and outputs stay as they are.

    A regularizer the layer already has (L2, or a penalty of another structure) is kept and added to. Compile or keep the
    compiled state as you like: the cached training step is dropped so that the next `fit` sees the penalty.

    Args:
        model: any built Keras model: Sequential, functional or subclassed, nested, with shared layers.
        structure: name, config or `Structure`.
        strength: the coefficient, about the price of one surviving group in units of the loss; None is 1e-5 without a budget.
        penalty: name, config or `Penalty`.
        budget: instead of a strength, what may be left of all kernels chosen: a `Budget`, its mapping or text, such as
            `"sparsity=0.9"`. `fit` with `callbacks.BudgetProximal` then presses as hard as it needs; `penalty` and `price`
            play no part.
        layers: which layers; see `kernels.selectors`.
        price: what a group costs relative to those of other kernels: a number, a function `Target -> number`, or `"size"`
            for the root of its number of weights, one on average.

    Returns:
        `Attached`: the penalties and, with the reason, every kernel left out.

    Raises:
        TypeError, ValueError: for a model that is not Keras 3 or not built, weights that are not finite, an unknown
            structure, a layer that cannot have it, a strength, penalty or price beside a budget, a budget of files beside
            another budget, a structure without groups to choose from; the model is then unchanged.

    Example:
        >>> regularize(model, "filter", strength=1e-3)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x, y, epochs=40, callbacks=[Reweighting(every=10)])
    """
    check_eager()
    budget = budgets.get(budget)
    strength = check_strength(strength, budget, 1e-5)
    check_not_beside(budget, {"penalty": (penalty, "log_sum"), "price": (price, 1.0)})
    check_trained_finite(model)
    if budget is not None:
        check_choosable(get_structure(structure))
        _check_measured_once(model, budget)
    selected, left_out = select(model, structure, layers)
    template = Reweighted(structure, strength, penalty)
    chosen, frozen = [], []
    for item in selected:
        if item.target.variable.trainable:
            chosen.append(item)
        else:
            frozen.append(LeftOut(item.target.name, "frozen: Keras applies no penalty to it"))
    if not chosen:
        raise ValueError(
            errors.message(
                "At least one selected kernel must be trainable.",
                "Set `layer.trainable = True`.",
                frozen=[f.name for f in frozen],
            )
        )
    pairs = [(item.target, item.structure) for item in chosen]
    budget = filed.calibrated(model, budget, "of_zeros", pairs)
    bound = []
    for item, kernel_price in zip(chosen, prices.of_kernels(price, chosen)):
        place = {"structure": item.structure.serialize(), "layout": item.target.layout.get_config()}
        with beside(item.target.variable):
            if budget is None:
                bound.append(Reweighted(**{**template.get_config(), "price": kernel_price, **place}))
            else:
                bound.append(Budgeted(budget=budget, **place))
    if budget is not None:
        check_within_reach(model, budget, pairs)
    add_all(model, [(item.target, regularizer) for item, regularizer in zip(chosen, bound)])
    warn_of_own_calls([item.target for item in chosen])
    return Attached(tuple(Attachment(i.target, r) for i, r in zip(chosen, bound)), tuple(left_out + frozen))


def add_all(model, pairs):
    """Adds a penalty to each of some kernels; the next `fit` sees them.

    Warns where a penalty will not be there after the model was saved and loaded: a class that makes its layers in its own
    `__init__` makes them without.

    Args:
        pairs: list of `(target, regularizer)`.
    """
    for target, regularizer in pairs:
        add(target, regularizer)
    renew_steps(model, [target.variable for target, _ in pairs], "the penalty does not act")
    lost = lost_when_saved(model, [target for target, _ in pairs])
    if lost:
        errors.warn(
            f"The penalties on {', '.join(lost[:5])} act now, but will not be there after the model was saved and loaded: its "
            "class makes these layers without them. Put them on again after loading.",
        )


def lost_when_saved(model, targets=None):
    """Names of the kernels whose penalties are gone after the model was saved and loaded.

    Args:
        model: a built model or layer.
        targets: the kernels in question; None are all that can have a penalty.
    """
    targets = find(model)[0] if targets is None else targets
    outer = (model,) if isinstance(model, keras.Model) else ()
    return [target.name for target in targets if not all(map(comes_back, (*outer, *target.holders)))]


def _check_measured_once(model, budget):
    """Raises for a budget of files beside another: what was measured is about the kernels of one call."""
    others = [item.target.name for item in attachments(model) if item.regularizer.budget is not None]
    if budget.of_files and others:
        fix = "Name all kernels in one call, or `detach` the model first."
        expected = "A budget of files is for all kernels at once, and some have a budget already."
        raise ValueError(errors.message(expected, fix, budget=budget, kernels=others[:5]))


def check_strength(strength, budget, default):
    """The strength asked for, or the default of a penalty without budget; raises where there is a budget as well."""
    if strength is None:
        return default
    if budget is not None:
        fix = "Drop `strength`: how hard to press is computed from the budget."
        raise ValueError(errors.message("`strength` and `budget` exclude each other.", fix, strength=strength, budget=budget))
    return strength


def check_not_beside(budget, options):
    """Raises for options of a strength that a budget has no use for.

    Args:
        budget: a `Budget` or None.
        options: for each name what was given, and its default.
    """
    if budget is None:
        return
    # Of arrays and tensors no one value says whether they are the default.
    given = {name: value for name, (value, default) in options.items() if hasattr(value, "__array__") or value != default}
    if given:
        expected = f"{', '.join(f'`{name}`' for name in given)} must be left out beside a budget."
        fix = "It presses by the log-sum, at the prices of what it limits; `criterion` says what a group is worth."
        raise ValueError(errors.message(expected, fix, **given, budget=budget))


def check_choosable(structure):
    """Raises for a structure that decides itself how much goes: a budget has nothing to say there."""
    if structure.decides:
        fix = "Leave the budget out, or choose another structure."
        expected = "A budget needs a structure whose groups go or stay one by one."
        raise ValueError(errors.message(expected, fix, structure=structure.name))


def attach(model: keras.Model) -> int:
    """Binds the penalties that were given in layers' constructors to their kernels, in place.

    `callbacks.Reweighting` does this at the start of `fit`. Each kernel gets an instance of its own, so that one
    regularizer object may be given to several layers.

    Returns:
        The number of kernels that were bound now.

    Raises:
        ValueError: when a structure cannot be had by the kernel it was given to; the model is then unchanged.
    """
    found = _kernels(model)
    pending = []
    owners = {}
    for target in found:
        parts = parts_of(target.regularizer)
        shared = id(target.regularizer) in owners and bool(parts)
        owners[id(target.regularizer)] = target
        if not parts or (_is_bound(target.regularizer) and not shared):
            continue
        with beside(target.variable):
            bound = bind(target.regularizer, target.layout)
        for part in bound.parts():
            reason = part.misfit(target.standard_shape)
            if reason is not None:
                raise ValueError(
                    errors.message(
                        f"The kernel {target.name} must be able to have the structure it was given: {reason}.",
                        "Choose another structure for this layer.",
                        structure=part.structure.name,
                        shape=target.layout.shape,
                    )
                )
        pending.append((target, bound))
    for target, bound in pending:
        put(target, bound)
    if pending:
        drop_compiled_steps(model)
    for item in attachments(model):
        item.regularizer.connect(model, item.target)
    return len(pending)


def attachments(model):
    """Every bound `KernelPenalty` of the model with its kernel, in the model's order."""
    return [Attachment(target, part) for target in _kernels(model) for part in parts_of(target.regularizer) if part.bound]


def unique_names(items):
    """A name for each of some `Attachment`s: its kernel's, and of further ones on the same kernel with their number."""
    seen, names = collections.Counter(), []
    for item in items:
        seen[item.target.name] += 1
        number = seen[item.target.name]
        names.append(item.target.name if number == 1 else f"{item.target.name} ({number})")
    return names


def common_budget(penalties):
    """The `Budget` that some penalties carry, or None where none carries one.

    Raises:
        ValueError: where they carry several, or some one and others none: what goes would depend on which is asked first.
    """
    carried = {penalty.budget for penalty in penalties}
    if len(carried) > 1:
        fix = "Say how much goes when you prune, or `detach` the model and put on penalties with one budget, or with strengths."
        expected = "The penalties on a model must all have one budget, or none, to say what goes."
        raise ValueError(errors.message(expected, fix, budgets=sorted(map(str, carried))))
    return carried.pop() if carried else None


def check_trainable(items):
    """Raises where solvers that set weights themselves would change what is frozen by now.

    Args:
        items: list of `Attachment`.

    Raises:
        ValueError: for penalties on layers with `trainable=False`.
    """
    frozen = list(dict.fromkeys(name for item in items for name in item.regularizer.frozen(item.target)))
    if frozen:
        fix = "Set `trainable = True`, or `detach` the model and regularize it again, which leaves frozen layers out."
        raise ValueError(errors.message("Layers with a penalty must be trainable.", fix, frozen=frozen[:5]))


def detach(model: keras.Model) -> int:
    """Takes every penalty of ours off again, in place; other regularizers, weights and outputs stay.

    What a solver left behind whose `fit` was interrupted goes as well.

    Returns:
        The number of kernels that were freed.
    """
    check_eager()
    check_layer(model)
    freed = take_off(model)
    renew_steps(model, freed, "the penalty goes on acting")
    return len(freed)


def take_off(model):
    """`detach` for callers that change more and tell of it themselves; the kernels' variables that had a penalty."""
    freed, changed = [], False
    one_fit.end_with_penalties(model)
    for target in _kernels(model):
        changed |= remove(target.variable, SoftThreshold)
        if parts_of(target.regularizer):
            put(target, replaced(target.regularizer, removed))
            freed.append(target.variable)
    if freed or changed:
        drop_compiled_steps(model)
    return freed


def _is_bound(regularizer):
    parts = parts_of(regularizer)
    return all(part.bound for part in parts)


def add(target, regularizer):
    """Puts a bound regularizer on a built layer beside the one it may have."""
    settle(target)
    existing = target.regularizer
    if existing is not None:
        with beside(target.variable):
            existing = bind(existing, target.layout) if not _is_bound(existing) else existing
        regularizer = Combined([existing, regularizer])
    put(target, regularizer)


def put(target, regularizer):
    """Sets a regularizer on a built layer: as attribute, so that it is saved, and on the variable, so that it acts."""
    keep(target, regularizer)
    target.variable.regularizer = regularizer


def _kernels(model):
    """Every kernel, after each projection of an attention layer that was loaded has got what is for it."""
    found, _ = find(model)
    for target in found:
        settle(target)
    return found
