"""What `explain` reports: how far each operation of a file is from its float model, and what would mend it."""

import dataclasses

from rich.table import Table

from tf_reweight.records import Report

_SHOWN = 10
# Errors below this part of the largest one are not worth a word of advice.
_SMALL = 0.2
_CLIPPED = 0.01
# Outputs as close as those of float16 files need no more precision.
_CLOSE = 2e-3
# What tables print as 0.00 %.
_ZERO = 5e-5


@dataclasses.dataclass(frozen=True)
class OperationError:
    """One operation of a file against the float model on the same inputs; errors are root mean squares over its output's.

    Attributes:
        name: of its output in the float file, which `export_mixed` takes in `keep`.
        operation: kind, as `"CONV_2D"`.
        position: in the file.
        own_error: what it adds itself: fed with the float model's values as the file stores them, and compared with the float
            operation on the same. None where it does not run alone.
        range_error: the part of it that comes of storing its output.
        weight_error: the rest: rounded weights, and integer arithmetic.
        error: of its output as the file computes it, with all that operations before it have lost.
        clipped: share of its output's values that lie outside of the range the file has for them.
        unlike: whether channels of unlike scale share that range.
    """

    name: str
    operation: str
    position: int
    own_error: float | None
    range_error: float | None
    weight_error: float | None
    error: float
    clipped: float
    unlike: bool

    @property
    def advice(self):
        """What would make its own error smaller, in a few words; nothing where that is 0.00 %.

        `wider range: other data`: representative data that reach as far, of a model of `quantize` for `calibrate`. `more bits
        for its weights`: `export_mixed`, or another precision. `scale its channels alike`: boxes in pixels beside scores share
        256 steps, so give them outputs of their own, or train with scaled targets. `int16, or float`: its output loses by
        rounding.
        """
        if self.own_error is not None and self.own_error < _ZERO:
            return ""
        if self.clipped >= _CLIPPED:
            return "wider range: other data"
        if self.own_error is None:
            return ""
        if self.weight_error > self.range_error:
            return "more bits for its weights"
        return "scale its channels alike" if self.unlike else "int16, or float"


@dataclasses.dataclass(frozen=True)
class Explanation(Report):
    """Where a file loses what its float model has.

    Attributes:
        file: its name.
        num_examples: on which operations were compared.
        error: of the file's worst output, root mean square relative to that of the model's, on all examples.
        float_accuracy: top-1 accuracy of the float model on all examples; None where there are no labels of one class each.
        file_accuracy: the same of the file.
        operations: one `OperationError` each, the one that adds most first.
        unpaired: operations of the file that the float model has no counterpart of, as `"MUL #3"`.
        trials: pairs of a name and the error of the outputs once this operation and all before it in the list are computed in
            float, on the examples that are furthest off; the first is that of the file as it is. Empty where that could not be
            tried, or where the file loses nothing.
        keep: the names, of those tried, that are worth more precision; `export_mixed` takes them as `keep`.
    """

    file: str
    num_examples: int
    error: float
    float_accuracy: float | None
    file_accuracy: float | None
    operations: tuple[OperationError, ...]
    unpaired: tuple[str, ...]
    trials: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]

    @property
    def loses_nothing(self):
        """Whether the outputs are within 0.2 % of the model's and no accuracy is lost."""
        return loses_nothing(self.error, self.float_accuracy, self.file_accuracy)

    def to_dict(self):
        """Every figure, as plain types."""
        operations = [{**dataclasses.asdict(item), "advice": item.advice} for item in self.operations]
        return {**dataclasses.asdict(self), "operations": operations}

    def to_tables(self):
        """The operations that add most, and what keeping some of them in float would change."""
        return [self._worst(), *([self._tried()] if self.trials else [])]

    def _worst(self):
        shown = self.operations[:_SHOWN]
        title = f"{self.file} against the float model, {self.num_examples} examples: outputs differ by {self.error:.2%}"
        if self.float_accuracy is not None:
            title += f"; accuracy {self.float_accuracy:.2%}, in the file {self.file_accuracy:.2%}"
        table = Table(title=title, caption=self._caption(shown))
        for heading in ("output of", "operation"):
            table.add_column(heading, no_wrap=True)
        for heading in ("adds", "range", "weights", "outside", "in all"):
            table.add_column(heading, justify="right")
        table.add_column("what helps")
        largest = max((item.own_error or 0.0 for item in shown), default=0.0)
        for item in shown:
            worth = item.clipped >= _CLIPPED or (item.own_error or 0.0) > _SMALL * largest
            advice = item.advice if worth and not self.loses_nothing else ""
            figures = (item.own_error, item.range_error, item.weight_error, item.clipped, item.error)
            table.add_row(item.name[-28:], item.operation, *map(_percent, figures), advice)
        return table

    def _caption(self, shown):
        if self.loses_nothing:
            return "nothing needs more precision: the file's outputs are those of the model"
        caption = f"the {len(shown)} that add most of {len(self.operations)} operations (--json has all): what each adds, by"
        caption += " its output's range and by its weights; values outside its range; its error with what came before"
        if self.unpaired:
            caption += f"; without a counterpart in the float model: {', '.join(self.unpaired[:5])}"
        return caption

    def _tried(self):
        spread = "the loss is spread over many operations: use a finer precision, or train with `quantize`"
        verdict = f"worth keeping in more precision: {', '.join(self.keep)}" if self.keep else spread
        title = "The outputs' error once operations compute in float, on the examples that are furthest off"
        table = Table(title=title, caption=verdict)
        table.add_column("this one and those above")
        table.add_column("error", justify="right")
        for name, error in self.trials:
            table.add_row(name[-60:], f"{error:.2%}")
        return table


def loses_nothing(error, float_accuracy=None, file_accuracy=None):
    """Whether an error of the outputs is at most 0.2 %, and no accuracy is lost where that is known."""
    return error <= _CLOSE and (float_accuracy is None or file_accuracy >= float_accuracy)


def _percent(value):
    return "-" if value is None else f"{value:.2%}"
