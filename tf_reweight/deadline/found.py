"""The groups that a solver works on: those of the penalties with a budget on a model."""

import numpy as np

from tf_reweight import errors
from tf_reweight.coupling.attachment import regularize_coupled
from tf_reweight.deadline.coupled import CoupledGroups
from tf_reweight.deadline.single import SingleGroups
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.checking import check_finite
from tf_reweight.graph.gradients import can_listen
from tf_reweight.graph.walking import is_graph
from tf_reweight.kernels.budgeted import first_to_meet
from tf_reweight.penalties.attachment import attach, attachments, check_trainable, take_off


def reachable_groups_of(model, *arguments, **options):
    """`groups_of` a model, which is refused before any training where the budget cannot be met; it is as before then.

    Returns:
        The groups, and whether the model had no penalties before.

    Raises:
        ValueError: as `groups_of`, for a budget out of reach, and for weights that are no numbers, among which no rank means
            anything.
    """
    check_finite(model)
    attach(model)
    bare = not attachments(model)
    try:
        found = groups_of(model, *arguments, **options)
        found.check_reachable(found.scores(found.norms()))
    except Exception:
        if bare:
            take_off(model)  # another budget can be tried then
        raise
    return found, bare


def groups_of(model, solver, budget, criterion, multiple_of, listening=True):
    """The `SingleGroups` or `CoupledGroups` of a model; without penalties on it, coupled ones are put on first.

    Args:
        model: the model in training.
        solver: the name of who asks, for errors.
        budget: a `Budget`, or None for that of the penalties.
        criterion: what groups are ranked by, or None.
        multiple_of: the channels that stay in the end are a multiple of it.
        listening: whether criteria that see the gradients of the training will do.

    Raises:
        ValueError: for an unknown criterion, penalties without a budget or with another one, two structures on a kernel, and
            for multiples where single kernels carry the penalties.
    """
    attach(model)
    single = any(not item.regularizer.spans_several for item in attachments(model))
    kind, listening = SingleGroups if single else CoupledGroups, listening and can_listen(model)
    options = kind.criteria if listening else kind.by_norms
    if criterion is not None and criterion not in options:
        raise ValueError(errors.unknown("criterion", criterion, options))
    if budget is not None and not attachments(model):
        regularize_coupled(model, budget=budget)
    items = attachments(model)
    carried = {item.regularizer.budget for item in items}
    kinds = {item.regularizer.spans_several for item in items}
    if len(carried) != 1 or None in carried or len(kinds) != 1:
        fix = "Call regularize(model, ..., budget=...) or regularize_coupled(model, budget=...) once, and `detach` others."
        expected = f"{solver} needs penalties with one budget on the model, of one kind, and no others."
        raise ValueError(errors.message(expected, fix, budgets=sorted(map(str, carried))))
    if budget is not None and budget not in carried:
        fix = "Leave the budget out here, or `detach` the penalties first."
        raise ValueError(errors.message("The penalties on the model have another budget.", fix, budget=budget))
    check_trainable(items)
    names = [item.target.name for item in items]
    if kinds == {False} and len(set(names)) < len(names):
        fix = "Call `regularize` with one structure for each kernel."
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(errors.message("A kernel can have one structure towards a budget.", fix, kernels=twice[:5]))
    if kinds == {False} and multiple_of != 1:
        fix = "Leave it out, or mark channels by regularize_coupled(model, budget=...)."
        raise ValueError(errors.message("`multiple_of` is for channels that go together.", fix, multiple_of=multiple_of))
    if kinds == {True}:
        graph = _graph_with(model, [item.target.variable for item in items])
        return CoupledGroups(model, graph, [item.regularizer for item in items], criterion, multiple_of, listening)
    return SingleGroups(model, [(item.target, item.regularizer) for item in items], criterion, listening)


def _graph_with(model, variables):
    """The model itself, or the graph that has the variables, inside a class that trains it by a `train_step` of its own."""
    inside = [] if is_graph(model) else [layer for layer in all_layers(model) if is_graph(layer)]
    wanted = {id(variable) for variable in variables}
    holding = [graph for graph in inside if wanted <= {id(variable) for variable in graph.variables}]
    return holding[0] if holding else model


def noted(groups, step, planned, keep, marginal):
    """One entry of a solver's history.

    Args:
        groups: the groups it works on.
        step: of the training.
        planned: the part of what has to go that was to be gone by now.
        keep: bool `(groups,)`: those that are left.
        marginal: score of the last group that has to go.
    """
    demand = first_to_meet(groups.demands, len(keep))
    return {"step": step, "planned": planned, "freed": gone(demand, len(keep), demand.quantity.at(keep)), "marginal": marginal}


def gone(demand, num_groups, left):
    """How much is gone where so much of a demand's quantity is left, as a fraction of what has to go; 1.0 where nothing has."""
    dense = demand.quantity.at(np.ones(num_groups, bool))
    return (dense - left) / (dense - demand.limit) if dense > demand.limit else 1.0
