"""tfmot's schedules, which take what its tutorials compute steps by: whole numbers of NumPy's, also as floats."""

import numbers

import numpy as np

from tf_reweight.baselines import schedules


class ConstantSparsity(schedules.ConstantSparsity):
    """`target_sparsity` from `begin_step` on; see `baselines.ConstantSparsity`, whose arguments it has.

    Example:
        >>> ConstantSparsity(0.5, begin_step=0)
    """

    def __init__(self, target_sparsity, begin_step, end_step=-1, frequency=100):
        super().__init__(_number(target_sparsity), *map(_steps, (begin_step, end_step, frequency)))


class PolynomialDecay(schedules.PolynomialDecay):
    """From `initial_sparsity` to `final_sparsity`, most of it early; see `baselines.PolynomialDecay`, whose arguments it has.

    Example:
        >>> PolynomialDecay(0.5, 0.8, begin_step=0, end_step=1000)
    """

    def __init__(self, initial_sparsity, final_sparsity, begin_step, end_step, power=3, frequency=100):
        amounts, steps = map(_number, (initial_sparsity, final_sparsity)), map(_steps, (begin_step, end_step))
        super().__init__(*amounts, *steps, _number(power), _steps(frequency))


def _steps(value):
    """A number of steps as an int; what is none is left for the schedule to refuse."""
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value // 1
    return int(value) if whole else value


def _number(value):
    """NumPy's numbers as Python's, which a configuration can hold; Python's own as they are."""
    return value.item() if isinstance(value, np.number) else value
