"""From a pruned model to a smaller one."""

import dataclasses
import typing

import keras
import numpy as np
from keras import ops

from tf_reweight import batch_statistics, errors
from tf_reweight.checks import check_flags, check_integer
from tf_reweight.coupling.analysis.sets import FrozenChannels, frozen_reason, groups
from tf_reweight.coupling.scores import CRITERIA, group_norms
from tf_reweight.data.examples import checked, input_specs, take
from tf_reweight.graph import random_inputs
from tf_reweight.graph.checking import check_eager
from tf_reweight.graph.compiling import compile_like
from tf_reweight.graph.counting import count_parameters
from tf_reweight.graph.emulation import check_channels_are_open
from tf_reweight.graph.randomness import fixed_draws
from tf_reweight.graph.ties import check_untied, shared_inside
from tf_reweight.graph.walking import graph_of
from tf_reweight.kernels.held import warn_of_revived
from tf_reweight.records import Report
from tf_reweight.shrinking import verify
from tf_reweight.shrinking.branches import NO_CUTS
from tf_reweight.shrinking.dead import dead_groups
from tf_reweight.shrinking.rebuild import Rebuilder


@dataclasses.dataclass(frozen=True)
class ShrunkSet:
    """One coupled set: how many groups it had and has, and why dead ones stayed."""

    name: str
    kept_groups: int
    num_groups: int
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ShrinkReport(Report):
    """What `shrink` did.

    Attributes:
        parameters_before: weights of the large model.
        parameters_after: weights of the small one.
        sets: one entry per coupled set.
        frozen: channels that can never be removed, with the reasons.
        kernels: one `(path, what became smaller)` per convolution whose kernel itself lost rows or became grouped.
        branches: paths of the layers that fell away whole, because what they added no longer depended on the input.
        difference: largest difference of the outputs, in units of their scale.
        in_float64: whether float64 copies were compared, since the models themselves amplify their rounding to noise.
    """

    parameters_before: int
    parameters_after: int
    sets: tuple[ShrunkSet, ...]
    frozen: tuple[FrozenChannels, ...]
    kernels: tuple[tuple[str, str], ...]
    branches: tuple[str, ...]
    difference: float
    in_float64: bool

    @property
    def removed_groups(self):
        return sum(item.num_groups - item.kept_groups for item in self.sets)

    def to_dict(self):
        return {
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "removed_groups": self.removed_groups,
            "difference": self.difference,
            "in_float64": self.in_float64,
            "sets": [dataclasses.asdict(item) for item in self.sets],
            "frozen": [dataclasses.asdict(item) for item in self.frozen],
            "kernels": dict(self.kernels),
            "branches": list(self.branches),
        }

    def __str__(self):
        lines = [
            f"{self.parameters_before:,} -> {self.parameters_after:,} parameters; {self.removed_groups} groups removed; "
            f"outputs differ by {self.difference:.1e} of their scale{' in float64' if self.in_float64 else ''}."
        ]
        for item in self.sets:
            notes = f" ({'; '.join(item.notes)})" if item.notes else ""
            lines.append(f"      {item.name}: {item.num_groups} -> {item.kept_groups}{notes}")
        lines += [f"      {path}: {words}" for path, words in self.kernels]
        if self.branches:
            lines.append(f"      removed whole, they added a constant: {', '.join(self.branches)}")
        lines += [f"      {item.name}: frozen, {'; '.join(item.reasons[:3])}" for item in self.frozen]
        return "\n".join(lines)


@typing.overload
def shrink(
    model: keras.Model, multiple_of: int = 1, inputs: typing.Any = None, find_groups: bool = False,
    return_report: typing.Literal[False] = False, data: typing.Any = None, *, include_frozen: bool = False,
) -> keras.Model: ...  # fmt: skip


@typing.overload
def shrink(
    model: keras.Model, multiple_of: int = 1, inputs: typing.Any = None, find_groups: bool = False, *,
    return_report: typing.Literal[True], data: typing.Any = None, include_frozen: bool = False,
) -> tuple[keras.Model, ShrinkReport]: ...  # fmt: skip


def shrink(
    model: keras.Model,
    multiple_of: int = 1,
    inputs: typing.Any = None,
    find_groups: bool = False,
    return_report: bool = False,
    data: typing.Any = None,
    *,
    include_frozen: bool = False,
) -> keras.Model | tuple[keras.Model, ShrinkReport]:
    """A plain, smaller Keras model without the groups that are dead, with the same outputs.

    A group is dead when every kernel that reads it holds zeros there, or when what makes it is zero: `prune_groups` leaves
    both, filter pruning the second. A constant that such a channel still emits (relu of a BatchNorm's beta) is folded
    into the next bias where that is exact; elsewhere the group stays and the report says so. A residual branch that adds
    nothing but a constant falls away whole, and outer kernel rows and columns that are zero throughout are cut off. The
    outputs of both models are always compared. The large model is unchanged.

    Args:
        model: a built Sequential or functional model, masked or with penalties; these are left behind.
        multiple_of: keep the best of the dead groups, so that the number of channels is a multiple; int8 kernels like 16.
        inputs: a real batch to compare on, in the structure the model is called with; by default random, of the
            inputs' shapes: smooth pictures for images.
        find_groups: whether a convolution whose kernel is block-diagonal, blocks of one size in order, becomes a grouped one:
            fewer multiply-accumulates, but not every runtime is fast at it.
        return_report: whether to return `(model, ShrinkReport)`.
        include_frozen: whether layers with `trainable=False` become smaller too. By default they keep their weights, and so do
            the channels that they share with others; a warning names those that are dead, and the report has them all.
        data: examples of any kind, alone or as `(x, y)`, for `refresh_statistics` of the small model after the comparison;
            see there.

    Returns:
        A new `keras.Model` with the layers' names kept, compiled like the large one (with a fresh optimizer).

    Raises:
        ShrinkError: when the outputs differ by more than float noise; where float32 models differ, float64 decides.
        TypeError: for a subclassed model.
        ValueError: for a model that is not built or is quantized, a value out of range, convolutions with channels first
            on a processor, or layers that have a weight in common. A layer inside `TimeDistributed` and outside stays one.

    Example:
        >>> prune_groups(model, sparsity=0.5)
        >>> small = shrink(model, multiple_of=8)
    """
    check_flags(find_groups=find_groups, return_report=return_report, include_frozen=include_frozen)
    check_eager()
    check_integer("multiple_of", multiple_of, 1, fix="1, 8 or 16.")
    coupled = groups(model)
    check_untied(model, "shrink")
    check_channels_are_open(model)
    warn_of_revived(model)
    examples = batch_statistics.given(model, data)
    if inputs is not None:
        inputs = take(model, inputs, "inputs")
        inputs = checked(inputs, input_specs(model, inputs), "inputs", text=True)
    verify.check_device(model)
    with fixed_draws(model):  # a state that lasts is left as it was
        if inputs is None:
            inputs = random_inputs.inputs(model, keras.tree.flatten(graph_of(model).inputs))
        batch = [ops.convert_to_tensor(x) for x in inputs]
        verdict = dead_groups(coupled, batch)
    dead, done, branches = set(verdict.roots), [], verdict.branches
    if not include_frozen:
        branches = _spare_frozen(coupled, dead, branches)
        coupled = coupled.without_frozen_layers()
    for item in coupled.sets:
        if all(id(part.variable) in branches.weights for part in item.slices):
            done.append(ShrunkSet(item.name, 0, item.num_groups, ("its branch added a constant and is removed whole",)))
            continue
        kept, notes = _revive(item, dead, multiple_of)
        stayed = sorted({verdict.kept[root] for root in item.labels.tolist() if root in verdict.kept})
        done.append(ShrunkSet(item.name, kept, item.num_groups, tuple(notes + stayed)))
    folds = {key: delta for key, delta in verdict.folds.items() if key[1] in dead}
    rebuilder = Rebuilder(coupled.trace, dead, folds, branches, find_groups, include_frozen, shared_inside(model))
    small = rebuilder.model(model)
    result = verify.check(model, small, batch)
    compile_like(small, model)
    batch_statistics.refresh(small, examples)
    report = ShrinkReport(
        parameters_before=count_parameters(model),
        parameters_after=count_parameters(small),
        sets=tuple(done),
        frozen=coupled.frozen,
        kernels=tuple(rebuilder.compacted.items()),
        branches=tuple(layer.name for layer in branches.layers if layer.weights),
        difference=result.relative,
        in_float64=result.in_float64,
    )
    return (small, report) if return_report else small


def _spare_frozen(coupled, dead, branches):
    """Takes dead channels that touch frozen layers back, in place, and says so; returns the branches that may still go."""
    spared = [item for item in coupled.sets if item.frozen_layers and not dead.isdisjoint(item.labels.tolist())]
    layers = list(dict.fromkeys(path for item in spared for path in item.frozen_layers))
    for item in spared:
        dead.difference_update(item.labels.tolist())
    held = [layer.name for layer in branches.layers if layer.weights and not layer.trainable]
    if spared or held:
        errors.warn(
            f"What is dead in {', '.join([*(item.name for item in spared), *held][:5])} stays: {frozen_reason(layers + held)}.",
        )
    return NO_CUTS if held else branches


def _revive(item, dead, multiple_of):
    """Takes back the best dead groups of a set, so that one stays and the counts are multiples; changes `dead`."""
    gone = np.array([root in dead for root in item.labels.tolist()], bool)
    kept, notes = int((~gone).sum()), []
    wanted = item.rounded_up(max(1, kept), multiple_of)
    if not kept:
        notes.append("every group was dead: the best one is kept")
    if wanted > kept:
        norms = np.where(gone, group_norms(item, CRITERIA[0]), -1.0)
        best = np.argsort(-norms, kind="stable")[: wanted - kept]
        dead.difference_update(item.labels[best].tolist())
        if kept:
            notes.append(f"{wanted - kept} dead groups kept for a multiple of {multiple_of}")
    return wanted, notes
