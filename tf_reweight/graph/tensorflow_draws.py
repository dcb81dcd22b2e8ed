"""What draws by states of TensorFlow's own: operations of a compiled step, which are out of reach, and its global generator."""

import keras

# Their state lies in the kernels of a traced step: a process that traces it again begins at another number.
_DRAWING = {
    "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "ParameterizedTruncatedNormal",
    "RandomShuffle", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "Multinomial", "UniformCandidateSampler",
    "LogUniformCandidateSampler",
}  # fmt: skip


def drawing_operations(model):
    """The operations of a model's compiled training step that draw by such a state, sorted; none on other backends."""
    if keras.backend.backend() != "tensorflow":
        return []
    cells = getattr(model.train_function, "__closure__", None) or ()
    traced = [getattr(cell.cell_contents, "_list_all_concrete_functions", list)() for cell in cells]
    found = set()
    for definition in (concrete.graph.as_graph_def() for functions in traced for concrete in functions):
        for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
            found |= {node.op for node in nodes} & _DRAWING
    return sorted(found)


def generator_state():
    """The state of the generator of `tf.random.get_global_generator`, a list of numbers; None before it was first used."""
    generator = _global_generator()
    return None if generator is None else generator.state.numpy().tolist()


def set_generator_state(state):
    """Sets it to what `generator_state` gave; None leaves it alone."""
    if state is not None:
        import tensorflow as tf

        tf.random.get_global_generator().reset(state)


def seed_generator(seed):
    """Lets that generator begin where a seed says, whatever it drew before; one that nobody uses is not made."""
    generator = _global_generator()
    if generator is not None:
        generator.reset_from_seed(seed)


def _global_generator():
    if keras.backend.backend() != "tensorflow":
        return None
    from tensorflow.python.ops import stateful_random_ops

    return stateful_random_ops.global_generator
