"""What happens while a model trains, epoch by epoch: recorded for the report, and written for TensorBoard."""

import contextlib
import importlib.util
import json
import math
import pathlib

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import EPOCHS, check_integer
from tf_reweight.files import append_line
from tf_reweight.graph.compiled import rate_now
from tf_reweight.graph.steps import figure_of
from tf_reweight.penalties.attachment import attachments, unique_names
from tf_reweight.pruning.prune import sparsity
from tf_reweight.strict_json import to_json

# Decades of the norms, four bins each; what is smaller than the first edge, zeros included, is counted in the first bin.
EDGES = tuple(float(edge) for edge in np.linspace(-8.0, 2.0, 41))


class Curves(keras.callbacks.Callback):
    """Records each epoch of a training: metrics, learning rate, the penalty's strength and value, and what is left.

    Args:
        stage: a word that tells this training from others in the same file.
        path: a file of JSON lines that records are added to, so that an interrupted training goes on with what it had; None
            keeps them in memory. Figures that are not finite are null in it, and NaN where `read_curves` reads it.
        log_dir: also write them there, for TensorBoard; None does not.
        model: whose weights are counted, where `fit` has it inside another model; None for the one that is fitted.

    Attributes:
        history: one dict per epoch, in order: `stage`, `epoch` (counted from 1), the metrics by Keras' names, `learning_rate`
            (at the start of the epoch), `num_nonzero` and `num_weights` of the kernels; and under penalties `strength` (the
            largest), `penalty` (its share of the loss), `living_groups`, `num_groups`, `negligible` (the norm below which a
            group is free, the largest) and `counts` of the norms in the bins of `EDGES`.

    Example:
        >>> model.fit(x, y, epochs=40, callbacks=[Reweighting(every=10), Curves("regularized", "curves.jsonl", "logs")])
    """

    def __init__(self, stage="fit", path=None, log_dir=None, model=None):
        super().__init__()
        check_tensorboard(log_dir)
        self.stage, self.log_dir, self._counted = stage, log_dir, model
        self.path = None if path is None else pathlib.Path(path)
        self._kept, self._writer, self._learning_rate = [], None, None

    @property
    def history(self):
        records = self._kept if self.path is None else read_curves(self.path)
        return [record for record in records if record["stage"] == self.stage]

    def on_train_begin(self, logs=None):
        self._writer = writer(self.log_dir, self._writer)

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            # Callbacks set it before each batch and lower it through the epoch.
            self._learning_rate = rate_now(self.model.optimizer)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model if self._counted is None else self._counted
        figures = {name: figure_of(value) for name, value in (logs or {}).items()}
        record = {"stage": self.stage, "epoch": epoch + 1, **figures}
        counts = sparsity(model).values()
        num_weights = sum(size for _, size in counts)
        record |= {"learning_rate": self._learning_rate, "num_weights": num_weights}
        record |= {"num_nonzero": num_weights - sum(zeros for zeros, _ in counts), **_penalty_figures(model)}
        self._kept.append(record)
        if self.path is not None:
            append_line(self.path, to_json(record))
        if self._writer is not None:
            _write_scalars(self._writer, record)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_curves(path):
    """The records that `Curves` left in a file; of an epoch that was trained again after an interruption, the last one.

    Returns:
        List of dicts, in the order of stages and epochs; empty without a file.
    """
    path, records = pathlib.Path(path), {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = {name: math.nan if value is None else value for name, value in json.loads(line).items()}
            records[str(record["stage"]), int(record["epoch"])] = record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # written half when the machine went down; its epoch was trained again
    return list(records.values())


def epochs_of(path, stage):
    """The numbers, from 1, of a stage's epochs that a file of curves has records of, as a set."""
    return {int(record["epoch"]) for record in read_curves(path) if record["stage"] == stage}


def lost_epochs(path, trained):
    """How many epochs of each stage have lost their records, for a file that was damaged or deleted.

    Args:
        path: of the file.
        trained: number of epochs by the names of stages.
    """
    missing = {stage: number - len(epochs_of(path, stage)) for stage, number in trained.items()}
    return {stage: number for stage, number in missing.items() if number > 0}


def _penalty_figures(model):
    """Strength, value and groups of all penalties on a model; nothing without any."""
    found = attachments(model)
    if not found:
        return {}
    counts, living, total, value = np.zeros(len(EDGES) - 1, "int64"), 0, 0, 0.0
    for item in found:
        sizes, alive = _log_norms(item)
        counts += np.histogram(sizes, EDGES)[0]
        living, total = living + alive, total + sizes.size
        value += float(ops.convert_to_numpy(item.regularizer(item.target.variable.value)))
    return {
        "strength": max(item.regularizer.strength for item in found),
        "penalty": value,
        "living_groups": living,
        "num_groups": int(total),
        "negligible": max(item.regularizer.negligible for item in found),
        "counts": counts.tolist(),
    }


def _log_norms(item):
    """`(log10 of a penalty's group norms, clipped to the edges; how many are above negligible)`."""
    norms = np.asarray(ops.convert_to_numpy(item.regularizer.norms(item.target.variable.value))).ravel()
    sizes = np.clip(np.log10(np.maximum(norms, 1e-30)), EDGES[0], EDGES[-1])
    return sizes, int(np.sum(norms > item.regularizer.negligible))


def check_tensorboard(log_dir):
    """Raises ValueError where events are to be written and TensorBoard is not installed."""
    if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
        fix = 'Run pip install "tf-reweight[tensorboard]", or leave it out.'
        raise ValueError(errors.message("`log_dir` needs TensorBoard installed.", fix, log_dir=str(log_dir)))


def writer(log_dir, before=None):
    """A writer of events for TensorBoard; None without a folder.

    Args:
        log_dir: the folder, or None.
        before: the writer of an earlier `fit`, which is closed: one that was interrupted had no end.
    """
    if before is not None:
        before.close()
    if log_dir is None:
        return None
    import tensorflow as tf

    return tf.summary.create_file_writer(str(log_dir))


@contextlib.contextmanager
def written(writer):
    """Within it, what `tf.summary` is given goes to a writer; it is in the file afterwards, also where `fit` is interrupted."""
    with writer.as_default():
        yield
    writer.flush()


def _write_scalars(writer, record):
    import tensorflow as tf

    with written(writer):
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "epoch":
                tf.summary.scalar(f"curves/{name}", value, step=record["epoch"])


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
        check_integer("every", every, 1, fix=EPOCHS)
        check_tensorboard(log_dir)
        self.every, self.log_dir = every, log_dir
        self.history = []
        self._writer = None

    def on_train_begin(self, logs=None):
        self._writer = writer(self.log_dir, self._writer)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        counts, living, total = np.zeros(len(EDGES) - 1, "int64"), 0, 0
        carried = attachments(self.model)
        for name, item in zip(unique_names(carried), carried):
            sizes, alive = _log_norms(item)
            counts += np.histogram(sizes, EDGES)[0]
            living, total = living + alive, total + sizes.size
            self._write(name, sizes, alive, epoch + 1)
        record = {"epoch": epoch + 1, "counts": counts.tolist(), "living_groups": living, "num_groups": int(total)}
        self.history.append(record)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, name, sizes, living, step):
        if self._writer is None:
            return
        import tensorflow as tf

        with written(self._writer):
            tf.summary.histogram(f"log10_norm/{name}", sizes, step=step)
            tf.summary.scalar(f"living_groups/{name}", living, step=step)
