"""The callbacks of a fit that prunes."""

import keras

from tf_reweight import errors
from tf_reweight.files import as_path
from tf_reweight.graph.optimizers import steps_of, zero_averages
from tf_reweight.kernels.compiled_step import renew_step
from tf_reweight.reports import curves
from tf_reweight.tfmot.pruning import wrappers


class UpdatePruningStep(keras.callbacks.Callback):
    """Chooses masks anew when the schedules of wrapped layers say so; steps are counted by the optimizer.

    Example:
        >>> pruned.fit(x, y, epochs=4, callbacks=[UpdatePruningStep()])
    """

    def __init__(self):
        super().__init__()
        self._layers = []

    def on_train_begin(self, logs=None):
        self._layers = wrappers(self.model)
        if not self._layers:
            fix = "Pass the model through prune_low_magnitude first."
            raise ValueError(errors.message("UpdatePruningStep needs wrapped layers.", fix, model=self.model.name))

    def on_train_batch_begin(self, batch, logs=None):
        step = steps_of(self.model.optimizer)
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # inside an epoch the weights live outside their variables there
        advanced = [layer for layer in self._layers if layer.advance(step)]
        if advanced:
            # What a later fit begins with would else be averages of before, and what was removed the smallest no more.
            zero_averages(self.model.optimizer, [kernel for layer in advanced for kernel in layer.masked_variables()])
            renew_step(self.model)


class PruningSummaries(keras.callbacks.Callback):
    """Writes metrics and the sparsity of each wrapped layer's masks for TensorBoard, after every epoch.

    Args:
        log_dir: folder of the event files.
        update_freq: `"epoch"`; tfmot's other values write more often, and are refused. So are further arguments, which tfmot
            passes to its TensorBoard callback: that of Keras can stand beside this one.

    Raises:
        TypeError: for a `log_dir` that is no path.
        ValueError: when TensorBoard is not installed, or for another `update_freq`.
    """

    def __init__(self, log_dir, update_freq="epoch"):
        super().__init__()
        as_path("log_dir", log_dir)
        curves.check_tensorboard(log_dir)
        if not isinstance(update_freq, str) or update_freq != "epoch":
            fix = "Use keras.callbacks.TensorBoard beside it for more."
            raise ValueError(errors.message("`update_freq` must be 'epoch'.", fix, update_freq=update_freq))
        self.log_dir, self._writer = log_dir, None

    def on_train_begin(self, logs=None):
        self._writer = curves.writer(self.log_dir, self._writer)

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        figures = {f"{layer.name}/sparsity": layer.mask_sparsity for layer in wrappers(self.model)}
        with curves.written(self._writer):
            for name, value in {**(logs or {}), **figures}.items():
                tf.summary.scalar(name, float(value), step=epoch)

    def on_train_end(self, logs=None):
        self._writer.close()
        self._writer = None
