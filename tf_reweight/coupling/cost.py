"""What a model costs without some of its channels, before it is rebuilt."""

import math

import numpy as np

from tf_reweight import errors
from tf_reweight.graph.counting import kernel_uses
from tf_reweight.graph.parameters import parameters_of
from tf_reweight.kernels.quantities import Curve, Product, Products, Timed

# Bytes of one weight in a file, and what each channel has beside its weights: the bias and, for integers, scales and offsets.
_WEIGHT_BYTES = {"float32": (4, 4), "float16": (2, 2), "int16": (1, 32), "weight_int4": (0.5, 16), "dynamic_int4": (0.5, 16)}
_OTHER_BYTES = (1, 28)


class Cost:
    """What of a model is left, as a function of the groups kept: multiply-accumulates, weights of kernels, parameters.

    Multiply-accumulates are counted like `graph.counting.count_macs`: one example, sizes that do not follow from those of the
    inputs as 1, activations and normalisations left out.

    Args:
        coupled: `coupling.groups(model)`.
    """

    def __init__(self, coupled):
        self._sets = coupled.sets
        self._own, self._axes = parameters_of(coupled.model), _Axes(coupled)
        self._kernels = [(positions, kernel) for kernel, positions, _ in kernel_uses(coupled.model)]
        once = {id(variable): variable for _, variable in self._kernels}
        each = [[(1, variable) for variable in variables] for variables in (once.values(), self._own)]
        self._macs, self._weights, self._parameters = self._axes.products(self._kernels, *each)

    @property
    def quantities(self):
        """Mapping of the names that a `Budget` knows to `kernels.quantities.Quantity`; groups of all sets in one row."""
        return {"macs": self._macs, "weights": self._weights, "parameters": self._parameters}

    def of_files(self, budget):
        """Mapping of what a `Budget` limits of files to `Quantity`, from what was measured of them; see `filecost`."""
        return {name: Curve(self.inner(name, budget), *budget.calibration[name]["points"]) for name in budget.of_files}

    def inner(self, name, budget):
        """The `Quantity` over which a file's quantity is a curve: bytes by a model of the file, or times of operations."""
        if name == "latency_ms":
            (timed,) = self._axes.products(self._kernels)
            return Timed(timed.parts, timed.members, timed.fixed, self._times_of(budget.calibration[name]))
        weight, channel = _WEIGHT_BYTES.get(budget.stored_in, _OTHER_BYTES)
        kernels = [(weight, variable) for variable in self._own if len(variable.shape) > 1]
        shifts = [(channel, variable) for variable in self._own if _is_shift(variable)]
        return self._axes.products(kernels + shifts)[0]

    def _times_of(self, measured):
        """The curve of each use of a kernel.

        Raises:
            ValueError: where another model was measured.
        """
        curves = tuple(measured.get("operations", ()))
        if len(curves) != len(self._kernels):
            fix = "Leave the calibration out: it is measured."
            received = {"operations": len(curves), "kernels": len(self._kernels)}
            raise ValueError(errors.message("`calibration` must have the time of each kernel's operation.", fix, **received))
        return curves

    def macs(self, keeps=None):
        """Multiply-accumulates, int.

        Args:
            keeps: one bool array `(num_groups,)` per set of `coupled.sets`; None keeps all.
        """
        if keeps is None:
            keeps = [np.ones(item.num_groups, bool) for item in self._sets]
        return round(self._macs.at(np.concatenate([np.zeros(0, bool), *(np.asarray(keep, bool) for keep in keeps)])))


class _Axes:
    """The axes of a model's variables that groups cut, as rows of one matrix."""

    def __init__(self, coupled):
        self._trace = coupled.trace
        labels = np.concatenate([item.labels for item in coupled.sets]) if coupled.sets else np.zeros(0, "int64")
        self._order = np.argsort(labels)
        self._sorted = labels[self._order]
        self._numbers, self._members, self._fixed = {}, [], []

    def products(self, *counted):
        """One `Products` for each list of `(factor, variable)` pairs."""
        parts = [tuple(self._part(factor, variable) for factor, variable in pairs) for pairs in counted]
        members = np.array(self._members).reshape(len(self._members), len(self._sorted))
        return [Products(summed, members, np.array(self._fixed)) for summed in parts]

    def _part(self, factor, variable):
        rows = {axis: self._row(variable, axis) for axis in range(len(variable.shape))}
        rest = math.prod(size for size, row in zip(variable.shape, rows.values()) if row is None)
        return Product(float(factor), rest, tuple(row for row in rows.values() if row is not None))

    def _row(self, variable, axis):
        """The number of the row of one axis, or None where no group cuts it."""
        key = (id(variable), axis)
        if key not in self._numbers:
            entry = self._trace.axes.get(key)
            found = np.zeros(len(self._sorted)) if entry is None else self._found(self._trace.labels.roots(entry.labels))
            self._numbers[key] = len(self._members) if found.any() else None
            if found.any():
                self._members.append(found)
                self._fixed.append(variable.shape[axis] - found.sum())
        return self._numbers[key]

    def _found(self, roots):
        """How often each group's label is among those of an axis."""
        places = np.searchsorted(self._sorted, roots[np.isin(roots, self._sorted)])
        return np.bincount(self._order[places], minlength=len(self._sorted)).astype("float64")


def _is_shift(variable):
    """Whether a weight is what each channel of a file has one of: normalisations are folded into the kernels before them."""
    return len(variable.shape) == 1 and variable.name in ("bias", "beta")
