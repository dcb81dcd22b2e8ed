"""Making before the training what Keras would make inside its first step."""

import keras

from tf_reweight.graph.compiled import compiles_by_itself, trains_by_itself
from tf_reweight.graph.optimizers import begin_averages


def build_training(model, batch):
    """Makes the variables of the optimizer, the loss and the metrics of a compiled model, so that its step is traced once.

    On TensorFlow, without a strategy, Keras leaves these variables to the first training step. A function that made variables
    is traced a second time without them, which takes as long as the first: seconds to minutes of a deep net, in every `fit`.

    Classes that train in their own way, and what cannot be computed with symbolic tensors, are left to Keras' first step.

    Args:
        model: a compiled model.
        batch: `(x, y, sample_weight)` as it is trained on; each None, an array or a structure of arrays.
    """
    if keras.backend.backend() != "tensorflow" or model.run_eagerly or compiles_by_itself(model) or trains_by_itself(model):
        return
    import tensorflow as tf

    steps = model.optimizer.variables[0]  # `iterations` is no variable where gradients are accumulated
    if tf.distribute.has_strategy() or isinstance(steps.value, tf.distribute.DistributedValues):
        return  # there Keras makes them itself
    is_new = not model.optimizer.built
    try:
        model._symbolic_build(data_batch=batch)
    except Exception:  # losses and metrics are anybody's code, and may ask for values: then the step is traced twice
        return
    if is_new:
        # Keras makes them as zeros, and a callback that puts averages into the model would find them before the first step.
        begin_averages(model.optimizer)
