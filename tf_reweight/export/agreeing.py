"""Whether a file computes what its Keras model does, and loses nothing that the model's metrics measure."""

import dataclasses
import math

import numpy as np

from tf_reweight import errors
from tf_reweight.data import labelled, varying
from tf_reweight.data.examples import input_specs
from tf_reweight.data.splits import numbered
from tf_reweight.export import samples
from tf_reweight.export.classes import CLASSES, NUMBERS, agreement, kinds_of_model, names_of_outputs
from tf_reweight.export.conversion import output_names
from tf_reweight.export.figures import Figures, figures_of
from tf_reweight.export.verification import HALF_ROUNDING, TOLERANCES, keras_outputs
from tf_reweight.graph.recasting import is_half
from tf_reweight.tflite import ends, flatbuffer
from tf_reweight.tflite.comparing import differences

# Largest share of other choices. A model that is often wrong is as often in doubt, and an int8 file decides then otherwise.
_OTHERS = 0.1
# The coarsest precision that tensors of a type say, the first that is there.
_COARSEST = (("INT4", "weight_int4"), ("INT8", "int8"), ("UINT8", "int8"), ("INT16", "int16"), ("FLOAT16", "float16"))
# Files by others may compute in another order than ours, whose bound is lower.
_FLOAT = 1e-3


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One thing that was asked of a file: `name`, what was `wanted` and `found` in words, and whether that `passed`."""

    name: str
    wanted: str
    found: str
    passed: bool


def requirements(runner, content, model, data, max_drop, tolerance, mode=None):
    """What is asked of a file and what is doubtful about it.

    Asked is that the file's outputs are the model's, and where labels measure it, that it is as good.

    Args:
        runner: a `Runner` of the file.
        content: the file's bytes.
        model: the Keras model.
        data: examples, or `(examples, labels)`.
        max_drop, tolerance, mode: as of `check_file`.

    Returns:
        `(requirements, doubts)`: a list of `Requirement`, and a tuple of sentences.
    """
    given = labelled.given(model, data)
    expected = keras_outputs(model, given.arrays)
    inputs = dict(zip(ends.matched(samples.ends(input_specs(model, given.arrays)), runner.inputs, "inputs"), given.arrays))
    wanted = [ends.End(name, array.shape, array.dtype) for name, array in zip(output_names(model, len(expected)), expected)]
    outputs = runner(inputs, ends.matched(wanted, runner.outputs, "outputs"))
    names = names_of_outputs(model, len(expected))
    kinds = kinds_of_model(model, expected, given.labels)
    labels = [None] * len(expected) if given.labels is None else labelled.in_order(given.labels, names, "data")
    labels = [numbered(label, array.shape) for label, array in zip(labels, expected)]
    for kind, array, label in zip(kinds, expected, labels):
        if kind == CLASSES:
            _check_labels(label, array, getattr(model.loss, "ignore_class", None))
    alike = all(first.shape == second.shape for first, second in zip(expected, outputs))
    only = tolerance == math.inf
    figures = Figures()
    if alike:
        figures = figures_of(model, given.labels, labels, names, kinds, expected, outputs, mode)
        if only:
            figures.check_every_output(names)
    on = f", on {len(given.arrays[0])} examples"
    others = _Limits(content, model, max_drop, tolerance, bool(figures.judged))
    by_channel = [kind == NUMBERS for kind in kinds]
    doubts = () if only else varying.behind_offsets([end.name for end in wanted], expected, outputs, by_channel)
    doubts = (*doubts, *figures.doubts)
    if not figures.judged:
        return [_agrees(others, names, kinds, expected, outputs, on + figures.note)], doubts
    good = _is_as_good(figures, max_drop, on + figures.note)
    return [_agrees(others, names, kinds, expected, outputs, on), good], doubts


def _is_as_good(figures, max_drop, on):
    wanted = "; ".join(figure.wanted(max_drop) for figure in figures.judged)
    passed = all(figure.passes(max_drop) for figure in figures.judged)
    return Requirement("as good as its model", f"{wanted} (max_drop)", f"{'; '.join(map(str, figures.judged))}{on}", passed)


class _Limits:
    """What outputs may differ by: `others`, the share of other choices, and `error`, the relative error, with their options.

    Where nothing is measured by labels, `max_drop` is about the outputs.
    """

    def __init__(self, content, model, max_drop, tolerance, measured):
        said = None if measured else max_drop
        default = max(_tolerance(content), HALF_ROUNDING if is_half(model) else 0.0)
        self.error = default if tolerance is None else tolerance
        # Whoever may lose so much accuracy differs in as many examples at least.
        self.others = max(_OTHERS, max_drop or 0.0) if said is None else said
        self.others = 1.0 if tolerance == math.inf else self.others
        self.of_numbers = self.error if said is None or tolerance is not None else said
        self.options = "tolerance" if said is None or tolerance is not None else "max_drop"


def _agrees(limits, names, kinds, expected, outputs, on):
    """The `Requirement` of the outputs."""
    wanted, found, passed = [], [], True
    for name, kind, first, second in zip(names, kinds, expected, outputs):
        where = f" in {name}" if len(names) > 1 else ""
        error = differences([first], [second], channels=kind == NUMBERS)[0].relative_error
        limit = limits.of_numbers if kind == NUMBERS else limits.error
        if first.shape != second.shape:
            found.append(f"shape {second.shape} instead of {first.shape}{where}")
        elif kind == NUMBERS:
            found.append(f"relative error {error:.2e}{where}")
        else:
            other = 1.0 - agreement(kind, first, second)
            passed &= other <= limits.others
            what = "another class than the model" if kind == CLASSES else "another decision than the model"
            found.append(f"{what} for {other:.2%}, relative error {error:.2e}{where}")
        passed &= first.shape == second.shape and bool(error <= limit)
    if any(kind != NUMBERS for kind in kinds):
        wanted.append(f"another choice for at most {limits.others:.3g} (max_drop)")
        wanted.append(f"relative error at most {limits.error:.3g} (tolerance)")
    if NUMBERS in kinds:
        wanted.append(f"relative error of numbers at most {limits.of_numbers:.3g} ({limits.options})")
    return Requirement("agrees with its model", "; ".join(wanted), f"{'; '.join(found)}{on}", bool(passed))


def _tolerance(content):
    """The relative error that a file of such tensors was accepted with when it was exported."""
    types = {flatbuffer.dtype_name(tensor) for graph in flatbuffer.read(content).subgraphs for tensor in graph.tensors}
    found = [TOLERANCES[precision] for kind, precision in _COARSEST if kind in types]
    return found[0] if found else _FLOAT


def _check_labels(labels, outputs, ignored):
    """Raises ValueError for labels that are none of the model's classes: no file loses accuracy on them."""
    if labels is None or np.shape(labels) != outputs.shape[:-1]:
        return
    labels, num = np.asarray(labels), outputs.shape[-1]
    strange = labels[~np.isin(labels, [*range(num), *([] if ignored is None else [ignored])])]
    if strange.size:
        fix = "Number the classes from 0, or name the class that the model's loss ignores as its `ignore_class`."
        raise ValueError(errors.message(f"Labels must be whole numbers in 0..{num - 1}.", fix, labels=strange[:5].tolist()))
