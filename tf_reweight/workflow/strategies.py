"""On which devices a run trains: on one, or with a copy of the model on each of several."""

import abc
import contextlib
import dataclasses

import keras

from tf_reweight import errors, registry
from tf_reweight.graph.distribution import beside_all
from tf_reweight.records import fields_of


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """Where the models of a run are made and trained. Its fields are settings, the keys of `distribute` in a configuration."""

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    @abc.abstractmethod
    def check(self, batch_size):
        """Raises where it cannot train with batches of this size; called before any work."""

    @abc.abstractmethod
    def note(self):
        """What the user should know of it before training, as a sentence; None where nothing is remarkable."""

    @abc.abstractmethod
    def scope(self):
        """A context within which models are made, compiled and trained."""

    def serialize(self):
        """The name where there are no fields, else `{"name": ..., **fields}`."""
        return registry.serialize(self, fields_of(self))


@dataclasses.dataclass(frozen=True)
class Mirrored(Strategy):
    """A copy of the model on every GPU of this machine, or every logical processor where there is none; each takes its part of
    a batch (`tf.distribute.MirroredStrategy`). Results are those of one device with the same batches, but for rounding, and
    but for BatchNormalization without `synchronized=True`, which sees the part alone.
    """

    name = "mirrored"

    def check(self, batch_size):
        if keras.backend.backend() != "tensorflow":
            fix = "Set KERAS_BACKEND=tensorflow, or leave `distribute` out."
            expected = "`distribute: mirrored` needs the TensorFlow backend."
            raise ValueError(errors.message(expected, fix, backend=keras.backend.backend()))
        count = len(self._devices())
        if batch_size % count:
            fix = f"For example {count * max(1, round(batch_size / count))}: examples of a smaller part would weigh more."
            expected = f"`train.batch_size` must be a multiple of the {count} devices."
            raise ValueError(errors.message(expected, fix, batch_size=batch_size))

    def note(self):
        devices = self._devices()
        if len(devices) > 1:
            return f"{len(devices)} copies of the model, on {', '.join(devices)}."
        return f"{devices[0]} is the only device here: the run trains on it as without `distribute`."

    def scope(self):
        import tensorflow as tf

        if tf.distribute.has_strategy():  # inside the scope of the user's own, which may not be left
            return contextlib.nullcontext()
        return _mirrored(tuple(self._devices())).scope()

    def _devices(self):
        import tensorflow as tf

        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in found]


# Variables of one strategy cannot be used in the scope of another, equal one: there is one for the devices of this process.
_MADE = {}


def _mirrored(devices):
    import tensorflow as tf

    if devices not in _MADE:
        _MADE[devices] = tf.distribute.MirroredStrategy(list(devices))
    return _MADE[devices]


_BY_NAME = {cls.name: cls for cls in (Mirrored,)}


def get(identifier):
    """A strategy from a name, a config `{"name": ..., **fields}`, or a strategy itself; None for None."""
    return None if identifier is None else registry.build("distribute", Strategy, _BY_NAME, identifier)


def scope_of(config, model):
    """A function that gives the context in which a run makes and trains its models; raises where that cannot be had.

    Args:
        config: the `Config`; without `distribute` a run stays where its model was made.
        model: the user's model, or None where the configuration names one.
    """
    strategy = get(config.distribute)
    if strategy is not None:
        strategy.check(config.train.batch_size)
        return strategy.scope
    return contextlib.nullcontext if model is None else lambda: beside_all(model)


def note_of(config):
    """What the user should know of the strategy, or None."""
    strategy = get(config.distribute)
    return None if strategy is None else strategy.note()
