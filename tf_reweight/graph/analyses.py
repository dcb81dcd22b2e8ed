"""What was found out about a model, kept while the model stays the same."""

from tf_reweight.graph.state import parts_of
from tf_reweight.graph.walking import graph_of, nodes_of

# Where a model holds what is known of it, so that both go together.
_HOLDER = "_tf_reweight_analyses"
# What a run leaves behind on layers.
_TRACES_OF_RUNS = ("_called", "_dropout_mask", "_recurrent_dropout_mask")
# What acts on weights during training alone says nothing about a graph.
_OF_TRAINING = ("_regularizer", "_constraint")


class _Analyses:
    """A plain object, in which Keras looks for nothing to track or save."""

    def __init__(self):
        self.found = {}


def analysed(model, analyse, verdict_of):
    """What `analyse(model)` says, from before where the model has not changed since.

    A model has changed when it has other calls, or when a layer or operation inside it (penalties aside) has another object as
    any of its attributes: another kernel, activation, flag. Values of weights, regularizers and constraints do not count, so
    `analyse` must not read them.

    Args:
        model: a Sequential or functional model.
        analyse: function of a model; the answer is shared, so nobody may change it.
        verdict_of: function of an operation; where it says something else than before, the answer is out of date.

    Returns:
        The answer.
    """
    now = _parts(model, verdict_of)
    known = vars(model).get(_HOLDER) or _Analyses()
    before, answer = known.found.get(analyse, ([], None))
    # By identity. The parts are kept, so that no new object takes the place of an old one in memory.
    if len(before) != len(now) or any(old is not new for old, new in zip(before, now)):
        answer = analyse(model)
        known.found[analyse] = (now, answer)
        object.__setattr__(model, _HOLDER, known)
    return answer


def _counts(name):
    return name not in _TRACES_OF_RUNS and not name.endswith(_OF_TRAINING)


def _parts(model, verdict_of):
    graph = graph_of(model)
    nodes = list(nodes_of(model))
    layers = [part for part in parts_of(model) if part is not model and part is not graph]
    holders = {id(part): part for part in (*layers, *(node.operation for node in nodes))}.values()
    inside = [value for holder in holders for name, value in vars(holder).items() if _counts(name)]
    return [graph, *nodes, *graph.inputs, *graph.outputs, *(verdict_of(node.operation) for node in nodes), *inside]
