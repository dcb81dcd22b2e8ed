"""Which weights an optimizer does not decay: what `exclude_from_weight_decay` was told, which no configuration has."""

from tf_reweight.graph.optimizers import innermost


def undecayed(model):
    """The weights that the optimizer of a compiled model was told one by one, as layer and name; without those by pattern."""
    optimizer = innermost(model.optimizer)
    told = vars(optimizer).get("_exclude_from_weight_decay") or ()
    return frozenset(_place(variable) for variable in model.trainable_variables if optimizer._var_key(variable) in told)


def exclude_alike(made, optimizer, model, single):
    """Excludes from the decay of a fresh optimizer what another one excludes.

    Args:
        made: the fresh one, not built yet.
        optimizer: the other one.
        model: what `made` will train.
        single: weights by layer and name, from `undecayed`.
    """
    pattern = vars(innermost(optimizer)).get("_exclude_from_weight_decay_pattern")
    variables = [variable for variable in model.trainable_variables if _place(variable) in single]
    if pattern is not None or variables:
        innermost(made).exclude_from_weight_decay(variables, None if pattern is None else [pattern.pattern])


def _place(variable):
    # Models that are built anew may have other names before those of their layers.
    return "/".join(variable.path.split("/")[-2:])
