"""Weights that several layers of a graph have, as those of a layer inside `TimeDistributed` that is called by itself too."""

import keras

from tf_reweight import errors
from tf_reweight.graph.access import functional_of, is_layer, nodes_in_order, sublayers
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.copying import config_of
from tf_reweight.graph.keras_classes import is_keras_own
from tf_reweight.graph.state import parts_of
from tf_reweight.graph.walking import graphs_of, is_graph


def inside(operation):
    """The layer inside a `TimeDistributed`; None for any other operation."""
    return operation.layer if type(operation) is keras.layers.TimeDistributed else None


def around(wrapper, layer):
    """A copy of a `TimeDistributed` around a layer that is there already, since other calls have it as well."""
    config = {name: value for name, value in config_of(wrapper).items() if name != "layer"}
    return type(wrapper)(layer, **config)


def shared_inside(model):
    """Mapping of a `TimeDistributed`'s id to the layer inside it, where that is called by itself or is in another one, too."""
    operations = _called(model)
    wrapped = {id(operation): inside(operation) for operation in operations if inside(operation) is not None}
    inner = [id(layer) for layer in wrapped.values()]
    called = {id(operation) for operation in operations}
    return {
        key: layer for key, layer in wrapped.items()
        if layer.weights and (id(layer) in called or inner.count(id(layer)) > 1)
    }  # fmt: skip


def check_untied(model, what, kept=lambda wrapper, layer: True, besides=lambda layer: ()):
    """Raises where layers of a graph have a weight in common that copies of them would not.

    Args:
        model: Sequential or functional.
        what: the function that makes the copies, for the message.
        kept: function `(wrapper, layer) -> bool` of a `TimeDistributed` and the layer inside it, where that is called elsewhere
            too: whether its copies stay one.
        besides: function from a layer to those of its weights that its copy has in common with those of others for which it
            gives them as well.
    """
    shared = shared_inside(model)
    owners: dict = {}
    for operation in _called(model):
        inner = shared.get(id(operation))
        owner = operation if inner is None or not kept(operation, inner) else inner
        # The layers of a nested model are called themselves.
        weights = own_weights(owner) if is_layer(owner) and not is_graph(owner) else ()
        common = {id(variable) for variable in besides(owner)}
        for variable in weights:
            # One owner for all that have it in common.
            key = None if id(variable) in common else id(owner)
            owners.setdefault(id(variable), (variable, {}))[1].setdefault(key, operation.name)
        for variable, holders in _held_twice(owner) if is_layer(owner) else ():
            owners[id(variable)] = (variable, dict(enumerate(f"{operation.name}/{name}" for name in holders)))
    tied = {variable.path: list(names.values()) for variable, names in owners.values() if len(names) > 1}
    apart = [layer for layer in _called(model) if id(layer) in shared and not kept(layer, shared[id(layer)])]
    if tied:
        # The steps and the single call are then calls of one layer.
        steps = "" if not apart else f"`{apart[0].name}` takes a single input too, as a sequence of one step. "
        raise ValueError(
            errors.message(
                f"Each weight must belong to one layer of the graph, since `{what}` makes layers anew: copies would be trained "
                "apart, with more weights than now.",
                "Give each of these layers weights of its own, or call one and the same layer at each place. "
                f"{steps}`prune`, `prune_groups`, `detach`, `release` and `export_tflite` take the model as it is.",
                weights=dict(list(tied.items())[:5]),
            )
        )


def _held_twice(layer):
    """The weights of layers that a layer holds in several places, as the activation of two cells: its config makes two of them.

    What a user's own layer makes of its config is not known.

    Returns:
        A list of `(variable, names of the layers that hold it)`.
    """
    parts = [] if is_graph(layer) or not is_keras_own(type(layer)) else parts_of(layer)
    # The functional model behind a Sequential one has the same layers.
    behind = {id(functional_of(part)) for part in parts if isinstance(part, keras.Sequential)}
    # Without penalties, of which all projections of attention have one.
    holders: dict = {id(part): (part, []) for part in parts}
    for part in (part for part in parts if is_keras_own(type(part)) and id(part) not in behind):
        places = [value for name, value in vars(part).items() if name.endswith("activation") and is_layer(value)]
        others = [child for child in sublayers(part) if all(child is not place for place in places)]
        for child in places + others:
            if id(child) in holders:
                holders[id(child)][1].append(part.name)
    return [(variable, names) for child, names in holders.values() if len(names) > 1 for variable in child.weights]


def _called(model):
    """The operations that a model and the models nested in it call, these models included, each once, in order."""
    nodes = [node for graph in graphs_of(model) for node in nodes_in_order(graph)]
    return list({id(node.operation): node.operation for node in nodes}.values())
