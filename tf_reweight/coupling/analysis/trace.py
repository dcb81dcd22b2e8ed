"""The walk that labels every channel of a model, and the notes it takes for pruning and shrinking."""

import dataclasses
import inspect

import keras
import numpy as np

from tf_reweight.coupling.analysis.labels import Labels, Signal, aligned
from tf_reweight.graph.access import is_layer
from tf_reweight.graph.call_arguments import by_name, is_mask
from tf_reweight.graph.walking import graph_of, is_graph, walk

# Why the channels of outputs stay.
OUTPUT = "output of the model"
# What acts on channels and is no kernel, however many axes it has, by the names that Keras gives.
_NO_KERNELS = ("alpha", "beta", "bias", "gamma")


@dataclasses.dataclass(eq=False)
class AxisLabels:
    """The labels along one axis of one variable.

    Attributes:
        role: `"out"` makes channels, `"scale"` acts on each alone, `"read"` reads them, `"state"` follows (statistics),
            `"span"` has no variable and only keeps a piece of a tensor from losing its last channel.
        kernel: whether it is a kernel that makes channels or acts on each alone (depthwise), and no gamma, bias or slope.
    """

    name: str
    variable: keras.Variable
    axis: int
    labels: np.ndarray
    role: str
    width: int = 1
    kernel: bool = False


@dataclasses.dataclass(eq=False)
class Read:
    """One reading of channels by a kernel.

    Attributes:
        layer: whose bias a foldable reading is moved to.
        entry: the kernel's axis.
        source: the `Signal` it reads, or None for channels that never leave the layer (heads, recurrent units).
        foldable: whether a constant input can be moved to the bias exactly.
        zero_if: entries whose zero slices make the channels of an inner reading zero; empty: never.
    """

    layer: keras.layers.Layer
    entry: AxisLabels
    source: Signal | None
    foldable: bool
    zero_if: tuple = ()


@dataclasses.dataclass(eq=False)
class Step:
    """What one operation does with labels.

    Attributes:
        node: the call in Keras' graph.
        mixes: outputs depend on other channels than their own, so a constant input says nothing about them.
        product: a channel that is zero in one input is zero in the output.
        trains: whether the call says `training=True`, or that of a nested model around it does.
        makers: entries; an output channel whose slices of all of them are zero no longer depends on the input.
        states: the `Signal`s that a recurrent layer starts from; its units depend on them whatever its weights are.
    """

    path: str
    node: object
    inputs: list
    outputs: list = dataclasses.field(default_factory=list)
    mixes: bool = False
    product: bool = False
    trains: bool = False
    makers: list = dataclasses.field(default_factory=list)
    reads: list = dataclasses.field(default_factory=list)
    states: list = dataclasses.field(default_factory=list)

    @property
    def operation(self):
        return self.node.operation


class Trace:
    """Labels of a whole model.

    Rules (see `table`) call its methods for each operation; the notes say everything that pruning and shrinking need.
    """

    def __init__(self):
        self.labels = Labels()
        self.axes = {}
        self.rewrites = {}
        self.steps = []
        self.outputs = []
        self.step = None
        self.shapes = []
        self._training = None
        # Channels made and a reason for each layer with kernels that no rule follows.
        self.unfollowed = {}
        # The paths of layers that no rule follows, by the ids of their weights: a layer may have weights of another.
        self._read_by = {}

    # What rules use.

    def signal(self, array, shape, keep=None):
        """A `Signal` from one label per element; see `labels.aligned`."""
        return aligned(self.labels, np.asarray(array), shape, keep)

    def along(self, vector, axis, shape):
        """A `Signal` of `shape` whose channels are `vector` along `axis` (negative counts from the end)."""
        sizes = [1] * len(shape)
        sizes[axis] = len(vector)
        return self.signal(np.reshape(vector, sizes), shape)

    def vector(self, signal, axis):
        """The labels along one axis, one per channel; channels on another axis are frozen by this."""
        axis %= len(signal.shape)
        if signal.varying_axis not in (None, axis):
            self.freeze(signal, f"{self.step.path} works along another axis than the channels'")
            return np.repeat(signal.labels.ravel()[:1], signal.shape[axis])
        return np.broadcast_to(signal.labels.ravel(), (signal.shape[axis],))

    def out(self, variable, axis, labels=None, width=1):
        """Labels of the channels a kernel makes, `width` of them per index; its zero slices make them constant."""
        entry = self._entry(variable, axis, "out", labels)
        entry.width, entry.kernel = width, len(variable.shape) > 1
        self.step.makers.append(entry)
        self.step.mixes = True
        return entry.labels

    def read(self, variable, axis, labels, source=None, foldable=False, zero_if=(), layer=None):
        """Notes that a kernel reads channels."""
        entry = self._entry(variable, axis, "read", labels)
        self.step.reads.append(Read(layer or self.step.operation, entry, source, foldable, zero_if))
        return entry

    def scale(self, variable, axis, labels, makes=False):
        """Notes a variable that acts on each channel alone (bias, gamma, slope, depthwise kernel); None is no variable.

        One of several axes is a kernel unless its name says that it is none: biases of heads and of a GRU and the slopes of
        PReLU have several axes as well.
        """
        if variable is None:
            return None
        entry = self._entry(variable, axis, "scale", labels)
        entry.kernel = entry.kernel or (len(variable.shape) > 1 and variable.name not in _NO_KERNELS)
        if makes:
            self.step.makers.append(entry)
        return entry

    def state(self, variable, axis, labels):
        """Notes per-channel statistics that are never pruned but go with their channel."""
        return None if variable is None else self._entry(variable, axis, "state", labels)

    def span(self, labels):
        """Notes a part of a tensor that must keep a channel, though no variable shows it (a piece of a split)."""
        key = ("span", len(self.axes))
        self.axes[key] = AxisLabels(f"{self.step.path}/part", None, 0, np.asarray(labels), "span")

    def freeze(self, signal, reason):
        """Keeps all channels of a signal (or an array of labels)."""
        self.labels.freeze(signal.labels if isinstance(signal, Signal) else signal, reason)

    def rewrite(self, operation, field, labels, value):
        """How a field of the operation's config follows the channels kept.

        Args:
            labels: the labels it depends on; an operation called several times has them tied.
            value: function from a bool array of their shape (True is kept) to the new value.
        """
        fields = self.rewrites.setdefault(id(operation), {})
        if field in fields:
            self.labels.tie(fields[field][0], labels)
        fields[field] = (np.asarray(labels), value)

    def count(self, operation, field, labels):
        """A config field that counts channels."""
        self.rewrite(operation, field, labels, _number_of)

    def opaque(self, reason):
        """Freezes all that comes in, and returns outputs of which nothing is known; a layer with kernels is noted."""
        self.step.mixes = True
        if is_layer(self.step.operation) and any(len(weight.shape) > 1 for weight in self.step.operation.weights):
            self.unfollowed[self.step.path] = (self.shapes[0][-1] or 1 if self.shapes[0] else 1, reason)
        self._read_by |= {id(weight): self.step.path for weight in getattr(self.step.operation, "weights", ())}
        for signal in self.step.inputs:
            self.freeze(signal, reason)
        outputs = []
        for shape in self.shapes:
            label = self.labels.fresh(1)
            self.labels.freeze(label, reason)
            outputs.append(Signal(label.reshape((1,) * len(shape)), shape))
        return outputs

    # The walk.

    def run(self, model, rule_of):
        """Labels `model`; `rule_of(operation)` gives the rule of an operation or a reason why there is none."""
        self.rule_of = rule_of
        inputs = []
        for tensor in keras.tree.flatten(graph_of(model).inputs):
            label = self.labels.fresh(1)
            self.labels.freeze(label, "input of the model")
            shape = tuple(tensor.shape[1:])
            inputs.append(Signal(label.reshape((1,) * len(shape)), shape))
        self.outputs = walk(model, inputs, self._visit)
        for signal in self.outputs:
            self.freeze(signal, OUTPUT)
        for entry in self.axes.values():
            reader = self._read_by.get(id(entry.variable))
            # A rule that gives up half-way knows what it has noted of its own layer.
            if reader is not None and not entry.name.startswith(f"{reader}/"):
                self.freeze(entry.labels, f"{entry.name} is also used by {reader}")
        return self

    def _visit(self, path, node, args, kwargs):
        if is_graph(node.operation):
            # Only the inputs: Keras may have added a mask, which the model's own layers compute again.
            inner = keras.tree.flatten(args[0])
            outer, self._training = self._training, self._training_of(kwargs)
            outputs = walk(node.operation, inner, self._visit, path + "/")
            self._training = outer
            return outputs
        self.step = Step(path, node, _signals((args, kwargs)), trains=self._training_of(kwargs) is True)
        self.shapes = [tuple(tensor.shape[1:]) for tensor in node.outputs]
        rule, reason = self.rule_of(node.operation)
        outputs = self.opaque(f"{path}: {reason}") if rule is None else self._by_rule(rule, node.operation, args, kwargs)
        self.step.outputs = keras.tree.flatten(outputs)
        self.steps.append(self.step)
        return self.step.outputs

    def _training_of(self, kwargs):
        """The `training` of a call: that of the nested model around it goes before its own, as in Keras."""
        return kwargs.get("training") if self._training is None else self._training

    def _by_rule(self, rule, operation, args, kwargs):
        """What a rule says; arguments by name that it does not take change no channels, unless they are tensors."""
        for name, given in by_name(operation, args, kwargs).items():
            if is_mask(name):
                for signal in _signals(given):
                    self.freeze(signal, f"{self.step.path}: used as a mask")
        parameters = inspect.signature(rule).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            others = kwargs.keys() - parameters.keys()
            followed = [name for name in others if _signals(kwargs[name]) and not is_mask(name)]
            if followed:
                return self.opaque(f"{self.step.path}: it is called with {followed[0]!r}, which its rule does not know")
            kwargs = {name: given for name, given in kwargs.items() if name not in others}
        return rule(self, operation, *args, **kwargs)

    def _entry(self, variable, axis, role, labels):
        axis %= len(variable.shape)
        key = (id(variable), axis)
        if key not in self.axes:
            labels = self.labels.fresh(variable.shape[axis]) if labels is None else np.asarray(labels)
            inside = variable.path.split(f"{self.step.operation.name}/")[-1]
            self.axes[key] = AxisLabels(f"{self.step.path}/{inside}", variable, axis, labels, role)
        elif labels is not None:
            self.labels.tie(self.axes[key].labels, labels)
        return self.axes[key]


def _signals(structure):
    return [item for item in keras.tree.flatten(structure) if isinstance(item, Signal)]


def _number_of(alive):
    return int(alive.sum())
