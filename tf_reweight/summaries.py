"""How the norms spread while the penalty works: recorded for the report, and written for TensorBoard."""

import importlib.util

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.attachment import attachments

# Decades of the norms, four bins each; what is smaller than the first edge, zeros included, is counted in the first bin.
EDGES = tuple(float(edge) for edge in np.linspace(-8.0, 2.0, 41))


class NormSummaries(keras.callbacks.Callback):
    """Counts group norms by size after the epochs that end a round: the gap between kept and freed groups opens here.

    Put it after `Reweighting`.

    Args:
        every: epochs between records, those of `Reweighting`.
        log_dir: also write histograms and numbers of living groups of each kernel there, for TensorBoard; None does not.

    Attributes:
        history: one dict per record: `epoch` (counted from 1), `counts` per bin of `EDGES` (log10 of the norm) over all
            kernels, and `living_groups`, `num_groups`.

    Example:
        >>> model.fit(x, y, epochs=40, callbacks=[Reweighting(every=10), NormSummaries(every=10, log_dir="logs")])
    """

    def __init__(self, every=1, log_dir=None):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(errors.message("`every` must be an int >= 1.", "It counts epochs.", every=every))
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            fix = 'Run pip install "tf-reweight[tensorboard]", or leave it out.'
            raise ValueError(errors.message("`log_dir` needs TensorBoard installed.", fix, log_dir=str(log_dir)))
        self.every, self.log_dir = every, log_dir
        self.history = []
        self._writer = None

    def on_train_begin(self, logs=None):
        if self.log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        counts, living, total = np.zeros(len(EDGES) - 1, "int64"), 0, 0
        for item in attachments(self.model):
            norms = np.asarray(ops.convert_to_numpy(item.regularizer.norms(item.target.variable.value))).ravel()
            sizes = np.log10(np.maximum(norms, 1e-30))
            counts += np.histogram(np.clip(sizes, EDGES[0], EDGES[-1]), EDGES)[0]
            alive = int(np.sum(norms > item.regularizer.negligible))
            living, total = living + alive, total + norms.size
            self._write(item.target.name, sizes, alive, epoch + 1)
        record = {"epoch": epoch + 1, "counts": counts.tolist(), "living_groups": living, "num_groups": int(total)}
        self.history.append(record)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _write(self, name, sizes, living, step):
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default():
            tf.summary.histogram(f"log10_norm/{name}", np.maximum(sizes, EDGES[0]), step=step)
            tf.summary.scalar(f"living_groups/{name}", living, step=step)
