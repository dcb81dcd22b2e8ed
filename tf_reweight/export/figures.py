"""What labels say of a model and of its file: metrics, accuracies and losses, and how much worse the file is in each."""

import dataclasses

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.data.labelled import in_order
from tf_reweight.export.classes import NUMBERS, chosen
from tf_reweight.graph import compiled
from tf_reweight.graph.losses import losses_of
from tf_reweight.graph.walking import output_structure

# Largest loss where none is named: of a share of examples, and of other metrics as a part of the model's, since a small error
# rises by more than a share does through the rounding of integers alone. A loss near zero rises by many times what it is: of
# what it gains over constant outputs, which is one whole as a share is, it may lose as much as a share.
_DROP, _RISE = 0.02, 0.1


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric of the model and of its file.

    Attributes:
        name: as Keras calls it.
        output: position of the output that it is about.
        mode: `"max"` or `"min"`, which way is better; None where nobody said it.
        proportion: whether it is a share of examples.
        before, after: of the model and of the file.
        constant: of a loss, what it is for the mean of the model's outputs in place of each; None of metrics.
    """

    name: str
    output: int
    mode: str | None
    proportion: bool
    before: float
    after: float
    constant: float | None = None

    @property
    def loss(self):
        """How much worse the file is: of a share as it is, of other metrics as a part of the model's."""
        worse = self.before - self.after if self.mode == "max" else self.after - self.before
        return worse / (1.0 if self.proportion else max(abs(self.before), 1e-12))

    def limit(self, max_drop):
        """The largest loss that is accepted."""
        return max_drop if max_drop is not None else _DROP if self.proportion else _RISE

    def passes(self, max_drop):
        """Whether the file loses no more than is accepted."""
        if self.loss <= self.limit(max_drop):
            return True
        return self.constant is not None and self.after - self.before <= self._share(max_drop) * (self.constant - self.before)

    def wanted(self, max_drop):
        """That limit in words."""
        limit = self.limit(max_drop)
        said = f"{self.name} at most {f'{limit:.3g}' if self.proportion else f'{limit:.3g} of it'} worse"
        share = self._share(max_drop)
        return said if self.constant is None else f"{said}, or {share:.3g} of what it gains over constant outputs"

    def _share(self, max_drop):
        return _DROP if max_drop is None else max_drop

    def __str__(self):
        shown = "{:.2%}" if self.proportion else "{:.4g}"
        said = f"{self.name} {shown.format(self.after)}, of the model {shown.format(self.before)}"
        return said if self.constant is None else f"{said}, of constant outputs {shown.format(self.constant)}"


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a file is judged by, and what it is not.

    Attributes:
        judged: a list of `Figure` with a direction.
        unknown: those of which nobody knows which way is better.
        unjudged: mapping of the other outputs that have labels which judge nothing, by their names, to the reason.
    """

    judged: list[Figure] = dataclasses.field(default_factory=list)
    unknown: list[Figure] = dataclasses.field(default_factory=list)
    unjudged: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def note(self):
        """A part of a sentence that names what was passed over; empty where nothing was."""
        names = ", ".join(figure.name for figure in self.unknown)
        note = f"; not judged, since nobody said which way is better (mode): {names}" if names else ""
        return note + "".join(f"; not judged, since {reason}: {name}" for name, reason in self.unjudged.items())

    @property
    def doubts(self):
        """A sentence for each output whose labels judge nothing, as a tuple."""
        fix = "Compile the model with a loss or a metric of it."
        said = "is only compared with the model's, its labels judge nothing"
        return tuple(f"The output {name} {said}: {reason}. {fix}" for name, reason in self.unjudged.items())

    def check_every_output(self, names):
        """Raises unless each output is judged by something.

        Args:
            names: of the outputs.
        """
        judged = {figure.output for figure in self.judged}
        missing = [name for position, name in enumerate(names) if position not in judged]
        if not missing:
            return
        passed_over = [figure.name for figure in self.unknown if names[figure.output] in missing]
        expected = "With `tolerance=inf` only metrics are compared, and there must be some that the labels measure, for each "
        expected += "output: a metric of which it is known which way is better, an accuracy or a loss."
        fix = "Pass labels as well, compile the model with a loss or a metric for each output"
        if passed_over:
            said = ", ".join(passed_over)
            fix = f'Pass mode="max" or mode="min" (`--mode`), which says it of {said}'
        fix = f"{fix}, or pass a finite `tolerance`."
        raise ValueError(errors.message(expected, fix, outputs=missing, metrics=passed_over))


def figures_of(model, given, labels, names, kinds, expected, outputs, mode):
    """The `Figures` of a file: the compiled metrics, of an output without one that has a direction its accuracy, or its loss.

    Args:
        model: the Keras model.
        given: labels as `fit` takes them, or None.
        labels: of each output, numbers of classes where there are classes; None where it has none.
        names, kinds: of the outputs.
        expected, outputs: arrays, of the model and of the file.
        mode: which way a metric is better of which nothing else says it, `"max"`, `"min"` or None.
    """
    if given is None:
        return Figures()
    found = _compiled(model, given, names, expected, outputs, mode) if compiled.measures_outputs(model) else []
    judged = [figure for figure in found if figure.mode is not None]
    measured = {figure.output for figure in judged}
    losses = losses_of(None if compiled.measures_by_itself(model) else getattr(model, "loss", None), names)
    # A loss takes labels as they came, one-hot ones among them.
    for position, (kind, label, came) in enumerate(zip(kinds, labels, in_order(given, names, "data"))):
        if position in measured or label is None:
            continue
        name, sides = f"{names[position]}_" if len(names) > 1 else "", (expected[position], outputs[position])
        own = None if kind == NUMBERS else chosen(kind, sides[0], sides[0])
        if own is not None and np.size(label) == own.size:
            right = [float(np.mean(chosen(kind, side, sides[0]) == np.reshape(label, own.shape))) for side in sides]
            judged.append(Figure(f"{name}accuracy", position, "max", True, *right))
        elif losses[position] is not None:
            sides = (*sides, np.broadcast_to(sides[0].mean(axis=0, keepdims=True, dtype=sides[0].dtype), sides[0].shape))
            values = [_measured(compiled.loss_of_output, given, losses[position], came, side) for side in sides]
            judged.append(Figure(f"{name}loss", position, "min", False, *values))
    unknown = [figure for figure in found if figure.mode is None]
    covered = {figure.output for figure in [*judged, *unknown]}
    without = [name for position, name in enumerate(names) if position not in covered and labels[position] is not None]
    return Figures(judged, unknown, dict.fromkeys(without, _why_unjudged(model)))


def _why_unjudged(model):
    """Why labels of an output judge nothing, in words."""
    if compiled.measures_by_itself(model):
        return f"{type(model).__name__} measures in its own way"
    is_compiled = getattr(model, "compiled", False)
    return "the model is compiled without a loss or a metric of it" if is_compiled else "the model is not compiled"


def _compiled(model, given, names, expected, outputs, mode):
    structure = output_structure(model)
    if structure is None and len(expected) > 1:
        return []
    sides = [array[0] if structure is None else keras.tree.pack_sequence_as(structure, array) for array in (expected, outputs)]
    (before, measured), (after, _) = [_measured(compiled.figures_of_outputs, given, model, given, side) for side in sides]
    return [
        Figure(
            item.name, names.index(item.output) if item.output in names else item.position, item.mode or mode,
            item.proportion, before[item.name], after[item.name],
        )
        for item in measured
    ]  # fmt: skip


def _measured(function, labels, *arguments):
    """What a function of the user's metrics or losses gives; an error of theirs is told as one about the labels."""
    try:
        return function(*arguments)
    except Exception as error:  # each raises what it likes
        fix = "Pass labels as `fit` takes them, or the examples alone."
        message = f"The labels must fit what the model is compiled with, which says: {errors.said_by(error)[:300]}."
        shapes = [np.shape(label) for label in keras.tree.flatten(labels)]
        raise ValueError(errors.message(message, fix, labels=shapes)) from error
