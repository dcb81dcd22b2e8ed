"""What a compressed model may cost, as a fraction of the dense one or absolute: given in place of a strength."""

import dataclasses
import functools
import numbers
import sys

from tf_reweight import errors
from tf_reweight.checks import check_number, is_number, is_sequence
from tf_reweight.records import fields_of

_FIX = "Pass a fraction of the dense model in (0, 1], such as {name}=0.5, or an absolute number above 1."
_FIX_OF_DROP = "It is in units of the metric: accuracy_drop=0.005 is half a point of accuracy."
# What files have, known only from files that were written and run.
OF_FILES = ("bytes", "zipped_bytes", "latency_ms")
# Amounts that are no counts.
_MEASURED = ("latency_ms", "accuracy_drop")
# What a budget says besides amounts.
_BESIDE = ("precision", "calibration")
# The precision of the file where nobody names one.
PRECISION = "int8"


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of a model may be left: one amount, or several that must all hold.

    `regularize`, `regularize_coupled`, `prune` and `prune_groups` take it; `callbacks.BudgetProximal` computes from it how hard
    to press, so that no strength has to be guessed.

    Args:
        sparsity: fraction of the weights of kernels that are zero, at least, in (0, 1); the same as `weights=1 - sparsity`.
        weights: weights of kernels that are not zero, at most: a fraction of all in (0, 1], or a number above 1. Where single
            kernels are pruned, those that `layers` leaves out, or that the structure does not fit, are not counted.
        parameters: parameters of the whole model, biases and normalisations included, at most; a fraction or a number.
        macs: multiply-accumulates of one example in dense and convolution kernels, at most; a fraction or a number; of the same
            kernels as `weights`.
        bytes: size of the `.tflite` as stored, zeros packed where that is smaller; a fraction of the dense file of the same
            precision, or a number. Files are predicted from some that were measured, to about half a percent; `compress`
            measures what it ships.
        zipped_bytes: size of the file in a compressed download (gzip); a fraction or a number.
        latency_ms: median time of one run of the file on this machine, one thread; a fraction, or milliseconds above 1. It
            falls with channels only: zeros inside kernels make no file faster.
        accuracy_drop: how much worse than the dense model the monitored metric may be on validation examples, absolute: 0.005
            is half a point of accuracy. `compress` then looks for the smallest model whose shipped file, as it is executed, is
            no worse; nothing else knows a metric.
        precision: of the file that `bytes`, `zipped_bytes` and `latency_ms` are about, see `export_tflite`; None is the one
            that `compress` ships, elsewhere `"int8"`.
        calibration: what was measured of files of the model, see `filecost`; set by the functions that take a budget, not by
            hand.

    Raises:
        TypeError: for an amount without its name.
        ValueError: for no amount, a number out of range, or `sparsity` beside `weights`.

    Example:
        >>> Budget(macs=0.5)
        Budget(macs=0.5)
        >>> Budget(macs=0.5, parameters=200_000).limits({"macs": 1_000, "parameters": 1_000_000})
        {'parameters': 200000.0, 'macs': 500.0}
    """

    sparsity: float | None = None
    weights: float | None = None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    zipped_bytes: float | None = None
    latency_ms: float | None = None
    accuracy_drop: float | None = None
    precision: str | None = None
    calibration: dict | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if isinstance(self.sparsity, str):
            fix = f"Write Budget.parse({self.sparsity!r}), or the amount by its name: Budget(macs=0.5)."
            raise TypeError(errors.message("`Budget` takes numbers by name.", fix, budget=self.sparsity))
        for name, amount in self.amounts.items():
            if _is_real(amount):  # numbers of NumPy are no JSON
                plain = int(amount) if isinstance(amount, numbers.Integral) else float(amount)
                object.__setattr__(self, name, plain)
        if not self.amounts:
            fix = f"Name what is limited: {', '.join(names())}; for example Budget(macs=0.5)."
            raise ValueError(errors.message("A budget needs an amount.", fix, budget=self.to_dict()))
        if self.sparsity is not None:
            if self.weights is not None:
                fix = "Pass one of them: weights is 1 - sparsity."
                received = {"sparsity": self.sparsity, "weights": self.weights}
                raise ValueError(errors.message("`sparsity` and `weights` limit the same.", fix, **received))
            _check_sparsity(self.sparsity)
        self._check_beside()
        for name, amount in self.amounts.items():
            fix = _FIX_OF_DROP if name == "accuracy_drop" else _FIX.format(name=name)
            if not _is_real(amount) or not 0 < amount <= sys.float_info.max:
                raise ValueError(errors.message(f"`{name}` must be a finite number > 0.", fix, **{name: amount}))
            if amount > 1 and amount != int(amount) and name not in _MEASURED:
                raise ValueError(errors.message(f"`{name}` counts {name}, a whole number above 1.", fix, **{name: amount}))

    def _check_beside(self):
        if self.precision is not None and not isinstance(self.precision, str):
            raise TypeError(errors.message("`precision` must be a name.", "For example int8.", precision=self.precision))
        if self.precision is not None and not self.of_files:
            fix = f"Leave it out, or limit {', '.join(OF_FILES)}."
            expected = "`precision` is that of the file whose size or time is limited."
            raise ValueError(errors.message(expected, fix, precision=self.precision, budget=self.amounts))
        if self.precision == "":
            raise ValueError(errors.message("`precision` must be a name.", "For example int8.", precision=self.precision))
        if self.calibration is not None and not _is_calibration(self.calibration):
            expected = "`calibration` must be what was measured of files, by their quantities: rising points, at least one."
            raise TypeError(errors.message(expected, "Leave it out: it is measured.", calibration=self.calibration))

    @staticmethod
    def parse(text):
        """The `Budget` of a text such as `"macs=0.5,parameters=200000"`, as the command line takes it; see `budget.get`."""
        return get(text)

    @property
    def amounts(self):
        """Mapping of quantities to what may be left of them, without those that are not limited."""
        return {name: amount for name, amount in fields_of(self).items() if name in names() and amount is not None}

    @property
    def of_files(self):
        """The limited quantities that only files tell, a tuple of names."""
        return tuple(name for name in self.amounts if name in OF_FILES)

    @property
    def is_calibrated(self):
        """Whether all that only files tell has been measured."""
        return set(self.of_files) <= set(self.calibration or {})

    @property
    def stored_in(self):
        """The precision of the file that the budget is about."""
        return self.precision or PRECISION

    def limits(self, totals):
        """What may be left of each limited quantity, absolute.

        Args:
            totals: mapping of quantities to what the dense model has of them.

        Returns:
            Dict of floats, `sparsity` as the weights it leaves.

        Raises:
            ValueError: when the budget limits something that `totals` has not; the names that could be limited are named.
        """
        if self.accuracy_drop is not None:
            fix = "Call compress(model, train, validation, budget=...), or limit what a model has, such as macs=0.5."
            raise ValueError(errors.message("Only `compress` can look for an accuracy: it has a metric.", fix, budget=self))
        found = {}
        for name, amount in self.amounts.items():
            if name == "sparsity":
                name, amount = "weights", 1.0 - amount
            if name not in totals:
                fix = f"Here can be limited: {', '.join(sorted(totals))}."
                raise ValueError(errors.message("The budget must limit what is removed here.", fix, budget=self))
            found[name] = amount * totals[name] if amount <= 1 else float(amount)
        if all(limit >= totals[name] for name, limit in found.items()):
            dense = ", ".join(f"{totals[name]:,.6g} {name}" for name in found)
            errors.warn(f"{self} is met by the dense model, which has {dense}: nothing has to go.")
        return found

    def to_dict(self):
        """What was given by name, JSON-ready; `get` reads it."""
        more = {"precision": self.precision, "calibration": self.calibration}
        return self.amounts | {name: value for name, value in more.items() if value is not None}

    def __repr__(self):
        precision = [] if self.precision is None else [f"precision={self.precision!r}"]
        return f"Budget({', '.join([*(f'{name}={amount:.12g}' for name, amount in self.amounts.items()), *precision])})"


def _with_known_names(made):
    """The `__init__` of `Budget`, which names the nearest quantity to one that there is not, where Python names none."""

    @functools.wraps(made)
    def init(self, *args, **amounts):
        known = {field.name for field in dataclasses.fields(Budget)}
        for name in amounts:
            if name not in known:
                raise TypeError(errors.unknown("quantity of a budget", name, names()))
        made(self, *args, **amounts)

    return init


Budget.__init__ = _with_known_names(Budget.__init__)  # type: ignore[method-assign]


def names():
    """The quantities that a budget can limit."""
    return tuple(field.name for field in dataclasses.fields(Budget) if field.name not in _BESIDE)


def get(identifier):
    """A `Budget` from a mapping such as `{"macs": 0.5}`, a text such as `"macs=0.5"`, or a budget itself; None stays None.

    Raises:
        TypeError: for anything else.
        ValueError: for an unknown quantity or a value out of range.

    Example:
        >>> get("macs=0.5,parameters=200000")
        Budget(parameters=200000, macs=0.5)
    """
    if identifier is None or isinstance(identifier, Budget):
        return identifier
    if isinstance(identifier, str):
        pairs = [_pair(part) for part in identifier.split(",")]
        if len(dict(pairs)) < len(pairs):
            fix = "Name each quantity once."
            raise ValueError(errors.message("A budget limits a quantity once.", fix, budget=identifier))
        identifier = dict(pairs)
    if not isinstance(identifier, dict):
        fix = 'Pass Budget(macs=0.5), {"macs": 0.5} or "macs=0.5".'
        raise TypeError(errors.message("`budget` must be a Budget.", fix, budget=identifier))
    for name in identifier:
        if name not in (*names(), *_BESIDE):
            raise ValueError(errors.unknown("quantity of a budget", name, names()))
    return Budget(**identifier)


def _pair(text):
    name, separator, amount = (part.strip() for part in text.partition("="))
    if name == "precision":
        return name, amount
    try:
        return name, float(amount)
    except ValueError:
        fix = "Write name=number, several with commas between: macs=0.5,parameters=200000."
        raise ValueError(errors.message("A budget in text is made of amounts by name.", fix, budget=text)) from None


def _is_real(amount):
    return isinstance(amount, numbers.Real) and not isinstance(amount, bool)


def _is_calibration(found):
    """Whether it is a mapping of quantities of files to what `filecost` measures of them."""
    if not isinstance(found, dict) or not set(found) <= set(OF_FILES):
        return False
    return all(isinstance(entry, dict) and _is_measured(entry) for entry in found.values())


def _is_measured(entry):
    """Whether an entry has a curve, and where times are predicted by those of operations, theirs."""
    curves = [entry.get("points"), *entry.get("operations", ())] if is_sequence(entry.get("operations", ())) else [None]
    return set(entry) <= {"points", "operations"} and all(map(_is_curve, curves))


def _is_curve(curve):
    """Whether it is two lists of as many numbers, at least one, the first of which rises."""
    if not is_sequence(curve) or len(curve) != 2 or not all(is_sequence(axis) and axis for axis in curve):
        return False
    at, has = curve
    numbers_only = all(is_number(value) for axis in curve for value in axis)
    return numbers_only and len(at) == len(has) and all(low < high for low, high in zip(at, at[1:]))


def _check_sparsity(sparsity):
    check_number("sparsity", sparsity, minimum=0.0, exclusive=True, fix="It is the fraction of the weights removed.")
    if sparsity >= 1:
        hint = f"Did you mean {sparsity / 100:g}? " if 1 < sparsity < 100 else ""
        fix = f"{hint}It is the fraction of the weights removed."
        raise ValueError(errors.message("`sparsity` must be in (0, 1).", fix, sparsity=sparsity))
