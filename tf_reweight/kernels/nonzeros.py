"""What a budget demands of zeros inside kernels: weights, multiply-accumulates and parameters that are not zero."""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.graph.counting import count_parameters, kernel_uses
from tf_reweight.graph.walking import is_graph
from tf_reweight.kernels.budgeted import Demand, check_reachable
from tf_reweight.kernels.quantities import Curve, Linear


def demands_on(model, budget, pairs, members, targets, masks):
    """The `Demand`s of a `Budget` on the groups of some kernels, all groups in one row.

    Args:
        model: the model.
        budget: a `Budget`, calibrated where it limits what only files tell; see `filed`.
        pairs: list of `(target, structure)`: the kernels and what is removed of them, each kernel once.
        members: int64 `(scopes, groups)` for each pair: weights in each group, without those that are gone already.
        targets: mapping of names to all targets that are pruned, those of `pairs` among them; dense weights are theirs.
        masks: mapping of the same names to bool arrays: False is gone already.
    """
    check_countable(budget)
    uses = {}
    for variable, positions, _ in kernel_uses(model):
        uses[id(variable)] = uses.get(id(variable), 0) + positions
    if budget.macs is not None and not is_graph(model):
        _check_known(uses, targets)
    chosen = {target.name for target, _ in pairs}
    others = [target for name, target in targets.items() if name not in chosen]
    pruned = sum(mask.size for mask in masks.values())

    def factors(name, target):
        # What is looked up, as in an Embedding, is not multiplied.
        return uses.get(id(target.variable), 0) if name == "macs" else 1

    quantities, totals = {}, {}
    for name in ("weights", "macs", "parameters"):
        costs = np.concatenate([np.ravel(count) * float(factors(name, t)) for (t, _), count in zip(pairs, members)])
        rest = float(sum(factors(name, target) * masks[target.name].sum() for target in others))
        total = float(sum(factors(name, target) * masks[target.name].size for target in targets.values()))
        extra = count_parameters(model) - pruned if name == "parameters" else 0
        quantities[name], totals[name] = Linear(costs, rest + extra), total + extra
    for name in budget.of_files:
        quantities[name] = Curve(quantities["weights"], *budget.calibration[name]["points"])
        totals[name] = quantities[name].is_points[-1]
    return [Demand(name, quantities[name], limit) for name, limit in budget.limits(totals).items()]


def check_countable(budget):
    """Raises for a `Budget` of what zeros inside kernels do not change."""
    if budget.latency_ms is not None:
        fix = "Limit bytes or zipped_bytes here, or remove channels: regularize_coupled, prune_groups."
        raise ValueError(errors.message("Zeros inside kernels make no file faster.", fix, budget=budget))


def _check_known(uses, targets):
    """Raises for kernels that nobody knows how often a model of the user's own class calls."""
    looked_up = [target for target in targets.values() if isinstance(target.layer, keras.layers.Embedding)]
    known = {*uses, *(id(target.variable) for target in looked_up)}
    unknown = [name for name, target in targets.items() if id(target.variable) not in known]
    if unknown:
        fix = "Limit `weights` or `parameters`, or build the model with keras.Model(inputs, outputs)."
        expected = "A budget of `macs` needs a Sequential or functional model, whose calls are known."
        raise ValueError(errors.message(expected, fix, kernels=unknown[:5]))


def check_within_reach(model, budget, pairs):
    """Raises where a `Budget` cannot be met although each kernel of the `(target, structure)` pairs keeps one group only."""
    members = [np.asarray(structure.num_members(target.standard_shape)) for target, structure in pairs]
    targets = {target.name: target for target, _ in pairs}
    masks = {name: np.ones(target.standard_shape, bool) for name, target in targets.items()}
    smallest = [np.argmin(np.where(count > 0, count, np.inf), axis=None) for count in members]
    least = [np.arange(count.size) == number for count, number in zip(members, smallest)]
    check_reachable(demands_on(model, budget, pairs, members, targets, masks), np.concatenate(least))
