"""The moving statistics of BatchNormalization, estimated anew from examples where they lag behind the weights."""

import contextlib
import dataclasses
import typing

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_integer
from tf_reweight.data import labelled
from tf_reweight.graph.batchnorm import following
from tf_reweight.graph.checking import check_eager, check_model
from tf_reweight.records import Report

BATCH = 64  # examples that go through a model together
# How far outside the spread between batches statistics must lie to be called stale.
_STALE = 4.0
# Examples are parted into so many batches at least, since their spread has to be seen.
_FEWEST_BATCHES = 4
# So many examples there must be, for batches of two.
_FEWEST = 2 * _FEWEST_BATCHES
# The part of labelled examples that decides, and is not used for estimating.
_DECIDING = 0.25


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """One BatchNormalization layer.

    Attributes:
        path: its name.
        distance: how far its statistics were from those of the examples, in units of the spread between batches, root mean
            square over the channels.
        refreshed: whether they were replaced.
    """

    path: str
    distance: float
    refreshed: bool


@dataclasses.dataclass(frozen=True)
class StatisticsReport(Report):
    """What `refresh_statistics` found and did.

    Attributes:
        layers: one entry per layer with moving statistics that is not frozen.
        losses: mapping of `"before"` and `"after"` to the loss on the labelled examples that decide; empty without labels.
        num_examples: how many examples were used to estimate.
    """

    layers: tuple[LayerStatistics, ...]
    losses: dict[str, float]
    num_examples: int

    @property
    def refreshed(self):
        """How many layers have new statistics."""
        return sum(layer.refreshed for layer in self.layers)

    def to_dict(self):
        return {
            "refreshed": self.refreshed,
            "num_examples": self.num_examples,
            "losses": self.losses,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    def __str__(self):
        lines = [f"{self.refreshed} of {len(self.layers)} layers have new statistics, from {self.num_examples} examples."]
        lines += [f"      loss {name}: {loss:.4f}" for name, loss in self.losses.items()]
        lines += [f"      {layer.path}: {layer.distance:.1f} times the spread away" for layer in self.layers if layer.refreshed]
        return "\n".join(lines)


def refresh_statistics(
    model: keras.Model, x: typing.Any, y: typing.Any = None, *, batch_size: int = BATCH
) -> StatisticsReport:
    """Estimates the moving statistics of BatchNormalization anew, in place, where they lag behind the weights.

    After pruning, and after a training that moved weights fast, statistics may belong to weights of long ago: the model is
    right in training and wrong in inference. The examples go through the model with BatchNormalization working as in training
    and everything else (Dropout among it) as in inference.

    Re-estimating is not free: few examples, or examples unlike those of the training, make statistics worse. So layers are
    refreshed only where their statistics lie outside of the spread between batches; and where there are labels and the model
    is compiled, a quarter of the examples decides by the loss whether the model is better with the new ones.

    Args:
        model: a built Keras model.
        x: examples of any kind that `data.examples.take` knows; a source of batches may have labels.
        y: labels of `x` where it is arrays, as `model.evaluate` takes them, or None.
        batch_size: examples that go through together; a batch gives one estimate.

    Returns:
        `StatisticsReport`.

    Raises:
        TypeError: for what is no Keras model, or holds no examples.
        ValueError: for fewer than 8 examples, or some that do not fit the model; it is then unchanged.

    Example:
        >>> prune_groups(model, budget="macs=0.5")
        >>> refresh_statistics(model, x_train[:1000], y_train[:1000])
    """
    check_eager()
    check_model(model)
    check_integer("batch_size", batch_size, 2, fix="Typical: 64.")
    examples = labelled.read(model, x, y)
    check_enough(model, examples, "x")
    check_labels(model, examples, "y", batch_size)
    return refresh(model, examples, batch_size)


def refresh(model, examples, batch_size=BATCH):
    """`refresh_statistics` on `data.labelled.Labelled` examples that were read and found enough before; nothing for None."""
    layers = following(model)
    if examples is None or not layers:
        return StatisticsReport((), {}, 0)
    held, used = _parted(model, examples)
    before = [_values(layer) for layer in layers]
    try:
        estimates = _estimated(model, layers, examples, used, batch_size)
        # A layer that the model has and does not call has seen nothing, and stays as it is.
        distances = [estimate.distance(layer, *values) for estimate, layer, values in zip(estimates, layers, before)]
        choices = {
            "before": before,
            "after": [e.values if d > _STALE else b for e, d, b in zip(estimates, distances, before)],
        }
        losses = _losses(model, layers, choices, examples, held, batch_size) if len(held) else {}
        chosen = choices[min(losses, key=losses.get) if losses else "after"]
    except BaseException:
        _set(layers, before)
        raise
    _set(layers, chosen)
    entries = [
        LayerStatistics(layer.path, float(distance), new is not old)
        for layer, distance, new, old in zip(layers, distances, chosen, before)
    ]
    return StatisticsReport(tuple(entries), losses, len(used))


def _parted(model, examples):
    """`(rows that decide, rows that estimate)`: without labels, or a loss, none decide."""
    order = np.random.default_rng(0).permutation(examples.num)
    decides = examples.labels is not None and model.compiled
    held = max(1, round(_DECIDING * examples.num)) if decides else 0
    return order[:held], order[held:]


def are_enough(model, num):
    """Whether so many examples can tell what the statistics of a model are; any can where it has none."""
    return num >= _FEWEST or not following(model)


def check_enough(model, examples, argument="data"):
    """Raises where examples, or None, are too few to tell what the statistics of a model are; before any work."""
    if examples is not None and not are_enough(model, examples.num):
        fix = "A few hundred are usual."
        expected = f"`{argument}` must hold at least {_FEWEST} examples."
        raise ValueError(errors.message(expected, fix, examples=examples.num))


def given(model, data):
    """The examples that a function was given as `data`, read once and found enough, or None; see `data.labelled.given`."""
    examples = labelled.given(model, data)
    check_enough(model, examples)
    check_labels(model, examples)
    return examples


def check_labels(model, examples, argument="data", batch_size=64):
    """Raises where a compiled model's loss does not take the labels by which `refresh` decides; before any work."""
    # On JAX an `evaluate` that raises takes the weights along, and labels out of range raise nothing.
    if examples is None or not following(model) or keras.backend.backend() == "jax":
        return
    held, _ = _parted(model, examples)
    if not len(held):
        return
    x, y = examples.batch(model, held)
    try:
        model.evaluate(x, y, batch_size=batch_size, verbose=0)
    except Exception as error:  # each backend has types of its own for what a loss refuses
        fix = "Pass labels as `evaluate` takes them, or the examples without labels."
        # TensorFlow says where in the graph it was before and after what it says.
        lines = [line.strip() for line in str(error).splitlines()]
        told = [line for line in lines if line and not line.startswith(("[[", "File"))]
        said = f"{type(error).__name__}: {told[-1] if told else 'nothing'}"[:300]
        expected = f"`{argument}` must have labels that the loss of the model takes."
        raise ValueError(errors.message(expected, fix, loss_says=said)) from error


@contextlib.contextmanager
def refreshed_for(model, examples):
    """The statistics refreshed as long as this lasts; a copy that is made meanwhile has them, the model does not.

    Yields:
        The `StatisticsReport`.
    """
    layers = following(model)
    before = [_values(layer) for layer in layers]
    report = refresh(model, examples)
    try:
        yield report
    finally:
        _set(layers, before)


class _Estimate:
    """Mean and variance of what one layer normalises, over all batches."""

    def __init__(self):
        self.weights, self.means, self.variances = [], [], []

    def add(self, weight, mean, variance):
        self.weights.append(weight)
        self.means.append(mean)
        self.variances.append(variance)

    @property
    def values(self):
        """`(mean, variance)`, float64 `(channels,)`: as if all batches were one."""
        weights = np.array(self.weights, "float64")[:, None] / sum(self.weights)
        means, variances = np.array(self.means), np.array(self.variances)
        mean = (weights * means).sum(0)
        return mean, (weights * (variances + np.square(means - mean))).sum(0)

    def distance(self, layer, mean, variance):
        """Root mean square over channels and both statistics of the distance, in units of the spread between batches.

        Of a layer that saw nothing it is 0. Variances are taken as the layer computes with them, epsilon added, and channels
        that it multiplies by zero, as those of pruned groups, do not count: their variance has fallen to zero, which is any
        number of spreads from what it was.
        """
        if not self.weights:
            return 0.0
        deviation = np.sqrt(self.values[1] + layer.epsilon)
        spread = np.std(self.means, axis=0) + 1e-3 * deviation
        logs = np.log(np.array(self.variances) + layer.epsilon)
        log_spread = np.std(logs, axis=0) + 1e-3
        off = np.array([(mean - self.values[0]) / spread, (np.log(variance + layer.epsilon) - logs.mean(0)) / log_spread])
        seen = ops.convert_to_numpy(layer.gamma) != 0 if layer.scale else np.ones(len(mean), bool)
        return np.sqrt(np.mean(np.square(off[:, seen]))) if seen.any() else 0.0


def _estimated(model, layers, examples, order, batch_size):
    """One `_Estimate` per layer from the examples of `order`; the layers are left with other statistics."""
    size = max(2, min(batch_size, len(order) // _FEWEST_BATCHES))
    estimates = [_Estimate() for _ in layers]
    with contextlib.ExitStack() as stack:
        for layer, estimate in zip(layers, estimates):
            stack.enter_context(_seeing(layer, estimate))
        # What is left over is less than a batch: its own spread is another one.
        for start in range(0, len(order) - size + 1, size):
            model(examples.batch(model, order[start : start + size])[0], training=False)
    return estimates


@contextlib.contextmanager
def _seeing(layer, estimate):
    """Lets a layer normalise by its batch, and notes what it sees at each call; shared layers are called several times."""
    momentum, call = layer.momentum, layer.call

    def normalising(inputs, **given):  # a subclass may know no mask
        outputs = call(inputs, **{**given, "training": True})
        estimate.add(1.0, *_values(layer))
        return outputs

    layer.momentum, layer.call = 0.0, normalising
    try:
        yield
    finally:
        layer.momentum = momentum
        del layer.call


def _losses(model, layers, choices, examples, held, batch_size):
    """The loss of each choice on the examples that decide."""
    x, y = examples.batch(model, held)
    losses = {}
    for name, values in choices.items():
        _set(layers, values)
        loss = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)["loss"]
        # A loss that is not finite is the worst.
        losses[name] = float(loss) if np.isfinite(loss) else float("inf")
    return losses


def _values(layer):
    pair = (layer.moving_mean, layer.moving_variance)
    return tuple(np.asarray(ops.convert_to_numpy(ops.cast(variable.value, "float32")), "float64") for variable in pair)


def _set(layers, values):
    for layer, (mean, variance) in zip(layers, values):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
