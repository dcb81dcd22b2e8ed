"""Branches that no longer depend on the model's input: what they still add is a constant, and their layers can go."""

import collections
import dataclasses

import numpy as np
from keras import ops

from tf_reweight.graph.access import is_layer
from tf_reweight.graph.keras_classes import is_named
from tf_reweight.shrinking.constants import is_uniform


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """An addition that loses its constant inputs.

    Attributes:
        offset: their sum, float64 `(channels,)` along the last axis; None for zero.
        labels: the labels of those channels.
    """

    offset: np.ndarray | None
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CutPlan:
    """Which additions are cut, and what falls away with that.

    Attributes:
        cuts: mapping of `id(node)` to its `Cut`.
        dropped: `id(node)` of all nodes that nothing needs any more.
        layers: the layers of those nodes.
    """

    cuts: dict
    dropped: frozenset
    layers: tuple

    @property
    def weights(self):
        """`id` of the variables that fall away."""
        return {id(variable) for layer in self.layers for variable in layer.variables}


NO_CUTS = CutPlan({}, frozenset(), ())


class ConstantTensors:
    """Follows, while a model runs, which whole tensors do not depend on its input."""

    def __init__(self, trace):
        self.trace = trace
        self.constant = set()
        self.found = []

    def observe(self, step, values):
        """Takes note of one operation.

        Args:
            values: mapping of `id(signal)` to `(signal, value)` for its inputs.
        """
        fixed = [signal for signal in step.inputs if id(signal) in self.constant]
        if step.inputs and not step.trains and (len(fixed) == len(step.inputs) or self._is_silenced(step)):
            self.constant.update(id(signal) for signal in step.outputs)
        elif fixed and is_named(step.operation, "Add"):
            rest = [signal for signal in step.inputs if id(signal) not in self.constant]
            offset = self._offset(fixed, values)
            if offset is not None and all(signal.shape == step.outputs[0].shape for signal in rest):
                labels = self.trace.labels.roots(np.broadcast_to(step.outputs[0].labels.ravel(), offset.shape))
                self.found.append((step, fixed, Cut(offset if offset.any() else None, labels)))

    def plan(self):
        """`CutPlan`; empty where nothing with weights would fall away."""
        steps = self.trace.steps
        calls = collections.Counter(id(step.node) for step in steps)
        found = [(step, fixed, cut) for step, fixed, cut in self.found if calls[id(step.node)] == 1]
        ignored = {id(step): {id(signal) for signal in fixed} for step, fixed, _ in found}
        needed, kept = {id(signal) for signal in self.trace.outputs}, []
        for step in reversed(steps):
            if any(id(signal) in needed for signal in step.outputs):
                needed.update({id(signal) for signal in step.inputs} - ignored.get(id(step), set()))
                kept.append(step)
        kept_nodes, kept_operations = {id(step.node) for step in kept}, {id(step.operation) for step in kept}
        gone = [step for step in steps if id(step.node) not in kept_nodes]
        freed = [step.operation for step in gone if id(step.operation) not in kept_operations]
        layers = [operation for operation in freed if is_layer(operation)]
        if not any(layer.weights for layer in layers) or not self._fits(found, gone, kept):
            return NO_CUTS
        return CutPlan({id(step.node): cut for step, _, cut in found}, frozenset(id(s.node) for s in gone), tuple(layers))

    def _is_silenced(self, step):
        """Whether what makes the output's channels is zero throughout."""
        made = {root for signal in step.outputs for root in np.unique(self.trace.labels.roots(signal.labels)).tolist()}
        last = [e for e in step.makers if made <= set(np.unique(self.trace.labels.roots(e.labels)).tolist())]
        return bool(last) and not any(ops.any(ops.not_equal(entry.variable.value, 0)) for entry in last)

    def _offset(self, fixed, values):
        """The sum of constant tensors, float64 `(channels,)`, or None where it is no constant per channel."""
        total = 0.0
        for signal in fixed:
            value = np.asarray(ops.convert_to_numpy(values[id(signal)][1]), "float64")
            rows = value.reshape(-1, value.shape[-1])
            if not is_uniform(rows.min(axis=0), rows.max(axis=0)):
                return None
            total = total + rows[0]
        return total

    @staticmethod
    def _fits(found, gone, kept):
        """Whether what goes lies beside the cuts or is whole nested models; other cases are left alone."""
        beside, used = {_container(step) for step, _, _ in found}, {_container(step) for step in kept}
        return all(_container(step) in beside or _container(step) not in used for step in gone)


def _container(step):
    return step.path.rpartition("/")[0]
