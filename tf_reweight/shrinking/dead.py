"""Which groups can go without changing what the model computes, by proof from the weights and not by sampling."""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.call_arguments import arguments_of
from tf_reweight.graph.walking import is_graph, walk_on
from tf_reweight.shrinking.branches import ConstantTensors, CutPlan
from tf_reweight.shrinking.constants import is_uniform


@dataclasses.dataclass(eq=False)
class Verdict:
    """What is dead.

    Attributes:
        roots: labels of the groups that can go.
        folds: mapping `(id(layer), root)` to what the constant of that group adds to the layer's bias, float64 `(out,)`.
        kept: mapping of root to the reason why a group that no longer depends on the input stays.
        branches: what falls away whole.
    """

    roots: set
    folds: dict
    kept: dict
    branches: CutPlan


def dead_groups(coupled, inputs):
    """Finds the groups that are dead.

    A group is dead if every kernel that reads it has zeros there, or reads a constant: one that no longer depends on the
    model's input, because the slices that make it are zero and everything after acts on each channel alone. A constant
    zero can go as it is, another is folded into the bias of the layer that reads it where that is exact.

    Args:
        coupled: `coupling.groups(model)`.
        inputs: list of arrays, one per input tensor, on which the constants are read off.
    """
    examiner = _Examiner(coupled)
    walk_on(coupled.model, inputs, examiner.visit)
    return examiner.verdict()


class _Examiner:
    """Runs the model operation by operation and follows which channels are independent of its input."""

    def __init__(self, coupled):
        self.labels = coupled.trace.labels
        self.tensors = ConstantTensors(coupled.trace)
        self.steps = iter(coupled.trace.steps)
        self.candidates = {int(root) for item in coupled.sets for root in item.labels}
        self.mixed = self.labels.mixed()
        self.known = {}
        self.roots = {}
        self.places = {}
        self.zeros = {}
        self.alive = set()
        self.folds = {}
        self.kept = {}

    def visit(self, path, node, args, kwargs):
        if is_graph(node.operation):
            return walk_on(node.operation, keras.tree.flatten(args[0]), self.visit, path + "/")
        outputs = node.operation(*args, **kwargs)
        step = next(self.steps)
        values = [item for item, symbol in zip(
            keras.tree.flatten((args, kwargs)), keras.tree.flatten(arguments_of(node))
        ) if isinstance(symbol, keras.KerasTensor)]  # fmt: skip
        ranges = {id(signal): _Range(signal, value) for signal, value in zip(step.inputs, values)}
        self.tensors.observe(step, {key: (given.signal, given.value) for key, given in ranges.items()})
        for read in step.reads:
            self._examine(step, read, ranges)
        for signal in step.outputs:
            self.known[id(signal)] = self._known_of(step, signal, ranges)
        return outputs

    def verdict(self):
        dead = self.candidates - self.alive
        folds = {key: delta for key, delta in self.folds.items() if key[1] in dead}
        kept = {root: reason for root, reason in self.kept.items() if root in self.alive}
        return Verdict(dead, folds, kept, self.tensors.plan())

    def _known_of(self, step, signal, ranges):
        """Roots of a tensor that do not depend on the model's input."""
        roots = self._roots(signal.labels)
        inputs = [(s, self._roots(s.labels), self.known.get(id(s), set())) for s in step.inputs]
        known = roots & _everywhere([(held, constant) for _, held, constant in inputs]) if not step.mixes else set()
        made = roots & _everywhere([(self._roots(entry.labels), self._zero_roots(entry)) for entry in step.makers])
        known |= {root for root in made if all(root in self.known.get(id(state), ()) for state in step.states)}
        if step.product:
            for source, _, constant in inputs:
                given = ranges[id(source)]
                known |= {root for root in constant & roots - known if self._bounds(root, given)[2] == 0}
        return known

    def _examine(self, step, read, ranges):
        rows = _Rows(read.entry.variable)
        for root in self._roots(read.entry.labels) - self.alive - self._zero_roots(read.entry):
            if read.source is None:
                ok = bool(read.zero_if) and root in _everywhere(
                    [(self._roots(entry.labels), self._zero_roots(entry)) for entry in read.zero_if]
                )
                ok = ok and all(self._is_zero(root, state, ranges) for state in step.states)
            elif root in self.mixed or root not in self.known.get(id(read.source), ()):
                ok = False
            else:
                ok = self._is_constant_removable(read, root, ranges[id(read.source)], rows)
            if not ok:
                self.alive.add(root)

    def _is_zero(self, root, signal, ranges):
        return root in self.known.get(id(signal), ()) and self._bounds(root, ranges[id(signal)])[2] == 0

    def _is_constant_removable(self, read, root, given, rows):
        low, high, largest = self._bounds(root, given)
        if largest == 0:
            return True
        if not read.foldable or given.signal.varying_axis is None:
            self.kept[root] = f"{read.entry.name} reads a constant that cannot be folded into its bias exactly"
            return False
        if not is_uniform(low, high):
            self.kept[root] = f"{read.entry.name} reads a constant that varies over positions (a border of zeros)"
            return False
        delta = rows.contribution(self._places(read.entry.labels, root), low)
        previous = self.folds.setdefault((id(read.layer), root), delta)
        if not np.allclose(previous, delta, rtol=1e-5, atol=1e-7):
            self.kept[root] = f"{read.layer.name} is shared and reads different constants"
            return False
        return True

    def _bounds(self, root, given):
        """Smallest and largest value of each channel of a root, `(channels,)`, and the largest magnitude of all."""
        low, high = given.bounds
        if given.signal.varying_axis is not None:
            places = self._places(given.signal.labels, root)
            low, high = low[places], high[places]
        return low, high, float(max(np.abs(low).max(initial=0.0), np.abs(high).max(initial=0.0)))

    def _places(self, labels, root):
        """Where a root stands among labels; all roots of an array are looked up together, once."""
        if id(labels) not in self.places:
            roots = self.labels.roots(labels).ravel()
            order = np.argsort(roots, kind="stable")
            starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
            self.places[id(labels)] = dict(zip(roots[order][starts].tolist(), np.split(order, starts[1:])))
        return self.places[id(labels)][root]

    def _roots(self, labels):
        """The candidates among labels; arrays of the trace live as long as it does, so their ids are keys."""
        if id(labels) not in self.roots:
            self.roots[id(labels)] = set(np.unique(self.labels.roots(labels)).tolist()) & self.candidates
        return self.roots[id(labels)]

    def _zero_roots(self, entry):
        """The candidates whose slices along this axis of the variable are all zero."""
        if id(entry) not in self.zeros:
            values = np.abs(np.asarray(ops.convert_to_numpy(ops.cast(entry.variable.value, "float32"))))
            others = tuple(axis for axis in range(values.ndim) if axis != entry.axis)
            living = values.max(axis=others, initial=0.0) > 0
            self.zeros[id(entry)] = self._roots(entry.labels) - set(self.labels.roots(entry.labels)[living].tolist())
        return self.zeros[id(entry)]


def _everywhere(pairs):
    """What is in the second set of a pair wherever it is in the first, and is in one at least."""
    held = set().union(*(some for some, _ in pairs))
    return held - set().union(*(some - good for some, good in pairs))


class _Range:
    """The values of one tensor that a step reads; what is asked of every channel is computed once for all."""

    def __init__(self, signal, value):
        self.signal, self.value = signal, value

    @functools.cached_property
    def bounds(self):
        """Smallest and largest value of each channel, float64 `(channels,)`; one number each where labels do not vary."""
        value = np.asarray(ops.convert_to_numpy(self.value), "float64")
        axis = self.signal.varying_axis
        rows = value.reshape(1, -1) if axis is None else np.moveaxis(value, axis + 1, 0).reshape(value.shape[axis + 1], -1)
        return rows.min(axis=1), rows.max(axis=1)


class _Rows:
    """A dense or convolution kernel as what each input channel adds to each output; cast once, however many are asked for."""

    def __init__(self, variable):
        self.variable = variable

    @functools.cached_property
    def matrix(self):
        """Float64 `(in, out)`: the kernel summed over its spatial axes."""
        kernel = np.asarray(ops.convert_to_numpy(ops.cast(self.variable.value, "float32")), "float64")
        return kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)

    def contribution(self, places, constants):
        """What constant input channels at these places add to each output, float64 `(out,)`."""
        return constants @ self.matrix[places]
