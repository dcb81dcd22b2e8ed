"""The channels of a model that must go together, as sets of groups with all their slices."""

import dataclasses
import math
import sys

import keras
import numpy as np
from keras import ops

from tf_reweight.coupling.analysis.table import rule_of
from tf_reweight.coupling.analysis.trace import OUTPUT, Trace
from tf_reweight.graph.analyses import analysed
from tf_reweight.records import Report
from tf_reweight.structures.one_pass import sum_of_squares


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """The part of one variable that the groups of a set span.

    Attributes:
        name: `path/of/layer/variable`.
        variable: the `keras.Variable`.
        axis: the axis that is cut.
        role: `"out"` makes the channels, `"scale"` acts on them, `"read"` reads them, `"state"` (BatchNorm statistics) only
            goes when they are removed.
        width: channels of the tensor per index of the axis; a head has several.
        group_of: int array over the axis: the number of the group each index belongs to, -1 for none of this set.
        kernel: whether it is of a kernel that makes the channels or acts on each alone (depthwise), and of no gamma, bias or
            slope.
    """

    name: str
    variable: keras.Variable
    axis: int
    role: str
    width: int
    group_of: np.ndarray
    kernel: bool

    @property
    def path(self):
        """The layer's path."""
        return self.name.rsplit("/", 1)[0]

    def squared_norms(self, num_groups, values=None):
        """Sum of squares of each group's slice, float32 `(num_groups,)`, differentiable."""
        values = ops.cast(self.variable.value if values is None else values, "float32")
        others = tuple(axis for axis in range(len(values.shape)) if axis != self.axis)
        squares = sum_of_squares(values, others)
        # One segment more gathers what belongs to no group.
        segments = np.where(self.group_of < 0, num_groups, self.group_of).astype("int32")
        return ops.segment_sum(squares, segments, num_segments=num_groups + 1)[:num_groups]

    def mask(self, keep):
        """Bool array, broadcastable to the variable: False where a group with `keep[g] == False` lies."""
        return np.append(np.asarray(keep, bool), True)[self.group_of].reshape(self._broadcast)

    def spread(self, factors):
        """`factors` `(num_groups,)`, float32, at the places of their groups, and 1 elsewhere; broadcastable to the variable."""
        places = np.where(self.group_of < 0, factors.shape[0], self.group_of)
        return ops.reshape(ops.take(ops.append(factors, 1.0), places), self._broadcast)

    @property
    def _broadcast(self):
        return [-1 if axis == self.axis else 1 for axis in range(len(self.variable.shape))]


@dataclasses.dataclass(frozen=True, eq=False)
class CoupledSet:
    """Groups of channels that span the same axes of the same variables; each group lives or dies as a whole.

    Attributes:
        name: the layers that make its channels.
        num_groups: how many groups.
        slices: what the groups span.
        labels: int64 `(num_groups,)`, the analysis' own numbers of the groups.
    """

    name: str
    num_groups: int
    slices: tuple[Slice, ...]
    labels: np.ndarray

    @property
    def frozen_layers(self):
        """Paths of the layers with `trainable=False` of which a weight would be changed, each once, in order."""
        return list(dict.fromkeys(s.path for s in self.slices if s.role != "state" and not s.variable.trainable))

    @property
    def weights_per_group(self):
        """Trainable-type weights in one group, on average over the groups (int, rounded)."""
        total = 0.0
        for variable in {id(s.variable): s.variable for s in self.slices if s.role != "state"}.values():
            cuts = [s for s in self.slices if s.variable is variable]
            left = math.prod(1.0 - (s.group_of >= 0).sum() / self.num_groups / variable.shape[s.axis] for s in cuts)
            total += math.prod(variable.shape) * (1.0 - left)
        return round(total)

    @property
    def channels_per_group(self):
        """How many channels of a tensor go with one group."""
        part = next(s for s in self.slices if s.role in ("out", "scale"))
        return max(1, round((part.group_of >= 0).sum() * part.width / self.num_groups))

    def rounded_up(self, kept, multiple_of):
        """The smallest number of groups, `kept` or more, whose channels are a multiple of `multiple_of`; at most all."""
        step = multiple_of // math.gcd(multiple_of, self.channels_per_group)
        return min(self.num_groups, -(-kept // step) * step)

    def paths(self, role):
        """Paths of the layers that play a role, each once, in order."""
        return list(dict.fromkeys(s.path for s in self.slices if s.role == role))


_MOST_NAMED = 3


@dataclasses.dataclass(frozen=True)
class FrozenChannels:
    """Channels that are made by a kernel and cannot be removed, and why."""

    name: str
    num_channels: int
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class CoupledSets(Report):
    """All that can be removed from a model, and what cannot; `str` prints it for reading."""

    model: keras.Model
    sets: tuple[CoupledSet, ...]
    frozen: tuple[FrozenChannels, ...]
    trace: Trace

    @property
    def num_groups(self):
        """Number of removable groups in all sets."""
        return sum(item.num_groups for item in self.sets)

    def without_frozen_layers(self):
        """The same without the sets that touch a layer with `trainable=False`: these are among what cannot be removed."""
        held = tuple(
            FrozenChannels(item.name, item.num_groups * item.channels_per_group, (frozen_reason(item.frozen_layers),))
            for item in self.sets
            if item.frozen_layers
        )
        left = tuple(item for item in self.sets if not item.frozen_layers)
        return dataclasses.replace(self, sets=left, frozen=self.frozen + held)

    def held_up(self):
        """A sentence on the channels that cannot go, those of most first; "" where only outputs stay."""
        held = [item for item in self.without_frozen_layers().frozen if OUTPUT not in item.reasons]
        held = sorted(held, key=lambda item: -item.num_channels)[:_MOST_NAMED]
        named = "; ".join(f"{item.name} ({'; '.join(item.reasons[:2])})" for item in held)
        return f"Whole stay, among others: {named}." if named else ""

    def to_dict(self):
        """The same figures as plain types."""
        return {
            "model": self.model.name,
            "num_groups": self.num_groups,
            "sets": [
                {
                    "name": item.name,
                    "num_groups": item.num_groups,
                    "weights_per_group": item.weights_per_group,
                    **{role: item.paths(role) for role in ("out", "scale", "read")},
                }
                for item in self.sets
            ],
            "frozen": [dataclasses.asdict(item) for item in self.frozen],
        }

    def find(self, path):
        """The sets whose channels the layer at `path` makes."""
        return [item for item in self.sets if path in item.paths("out") or path in item.name.split(" + ")]

    def __str__(self):
        lines = [f"{self.model.name}: {self.num_groups} groups of channels in {len(self.sets)} sets can be removed."]
        for number, item in enumerate(self.sets, 1):
            lines.append(f"{number:4d}. {item.name}: {item.num_groups} groups, {item.weights_per_group} weights each")
            roles = (("scaled by", "scale"), ("read by", "read"))
            for words, role in roles:
                others = [path for path in item.paths(role) if path not in item.name.split(" + ")]
                if others:
                    lines.append(f"      {words} {_listed(others)}")
        if self.frozen:
            lines.append("Frozen:")
        lines += [f"      {item.name}: {item.num_channels} channels; {'; '.join(item.reasons[:3])}" for item in self.frozen]
        return "\n".join(lines)


def frozen_reason(paths):
    """Why channels stay that touch frozen layers, in words."""
    verb = "has" if len(paths) == 1 else "have"
    return f"{_listed(paths)} {verb} trainable=False; include_frozen=True changes frozen layers too"


def groups(model: keras.Model) -> CoupledSets:
    """Finds the channels of a model that must go together.

    Follows every channel through the graph: BatchNorm, activations, residual adds, multiplications, concatenations,
    splits, depthwise and grouped convolutions, flattening, attention heads, recurrent units. `prune_groups`,
    `regularize_coupled` and `shrink` all use this analysis. What it does not know (Lambda, custom layers) freezes the
    channels that meet it, with the reason; see `coupling.register`. What was found is kept with the model while its layers stay
    the same ones.

    Args:
        model: a built Sequential or functional model; nested models, shared layers, several inputs and outputs are
            followed.

    Returns:
        `CoupledSets`.

    Raises:
        TypeError: for a subclassed model, which has no graph.
        ValueError: for a model that is not built.

    Example:
        >>> print(groups(model))
    """
    return analysed(model, _found, _verdict)


def _verdict(operation):
    """The rule of an operation, or why there is none, as one object that stays the same."""
    rule, reason = rule_of(operation)
    return sys.intern(reason) if rule is None else rule


def _found(model):
    trace = Trace().run(model, rule_of)
    frozen = trace.labels.frozen()
    entries = list(trace.axes.values())
    roots_of = [trace.labels.roots(entry.labels) for entry in entries]
    spans: dict[int, list[int]] = {}
    for number, (entry, roots) in enumerate(zip(entries, roots_of)):
        for root in np.unique(roots):
            spans.setdefault(int(root), []).append(number)
    by_span: dict = {}
    left: dict = {}
    for root, numbers in spans.items():
        makers = [n for n in numbers if entries[n].role == "out"]
        kernels = [n for n in numbers if entries[n].role == "scale" and entries[n].kernel]
        if root not in frozen and (makers or kernels):
            by_span.setdefault(tuple(numbers), []).append(root)
        elif makers or kernels:
            held = left.setdefault(_name([entries[n] for n in numbers]), [0, {}])
            held[0] += max(int((roots_of[n] == root).sum()) for n in makers or kernels)
            held[1].update(dict.fromkeys(frozen[root]))
    sets = [_set(numbers, roots, entries, roots_of) for numbers, roots in by_span.items()]
    alone = ("all of its channels go together, and one group always stays",)
    single = [FrozenChannels(item.name, 1, alone) for item in sets if item.num_groups < 2]
    held = [FrozenChannels(name, count, tuple(reasons)) for name, (count, reasons) in left.items()]
    others = [
        FrozenChannels(name, count, (reason.removeprefix(f"{name}: "),))
        for name, (count, reason) in trace.unfollowed.items() if name not in left
    ]  # fmt: skip
    return CoupledSets(model, tuple(item for item in sets if item.num_groups > 1), tuple(held + single + others), trace)


def _set(numbers, roots, entries, roots_of):
    roots = np.sort(np.asarray(roots))
    slices = []
    for n in numbers:
        entry = entries[n]
        if entry.variable is None:
            continue
        place = np.searchsorted(roots, roots_of[n])
        inside = (place < len(roots)) & (roots[np.minimum(place, len(roots) - 1)] == roots_of[n])
        group_of = np.where(inside, np.minimum(place, len(roots) - 1), -1)
        slices.append(Slice(entry.name, entry.variable, entry.axis, entry.role, entry.width, group_of, entry.kernel))
    return CoupledSet(_name([entries[n] for n in numbers]), len(roots), tuple(slices), roots)


def _name(entries):
    made = [e.name.rsplit("/", 1)[0] for e in entries if e.role == "out"]
    made = made or [e.name.rsplit("/", 1)[0] for e in entries if e.role == "scale" and e.kernel]
    return " + ".join(dict.fromkeys(made)) or entries[0].name


def _listed(names, limit=6):
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
