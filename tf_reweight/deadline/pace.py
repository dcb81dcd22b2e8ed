"""How fast groups are drawn to zero, so that the budget is met in so many steps."""

import numpy as np

# No group is drawn faster than so many times the pace of the marginal one; far below it, it is gone in one step anyway.
_FASTEST = 1e6


def pace(norms, scores, keep, marginal, steps_left, power, survivors):
    """What one training step takes off each group's norm, float64 `(groups,)`.

    `norm * (marginal / score) ** power / steps_left`: the group at the margin reaches zero in that many steps, those of lower
    score before. With scores like the squared norm and power 1 it is the proximal step of the log-sum penalty, whose strength
    is computed from the budget instead of given.

    Args:
        norms: float64 `(groups,)`, >= 0.
        scores: float64 `(groups,)`, >= 0.
        keep: bool `(groups,)`: those that would stay if the budget had to be met now.
        marginal: score of the last group that would go.
        steps_left: training steps that the marginal group has, >= 1.
        power: exponent, > 0.
        survivors: factor for the groups that would stay, in [0, 1].
    """
    ratios = np.full(len(scores), _FASTEST)
    # A quotient beyond the range of floats is faster than the fastest.
    with np.errstate(over="ignore"):
        np.divide(marginal, scores, out=ratios, where=scores > 0)
        ratios = np.minimum(ratios**power, _FASTEST)
    if marginal == 0:
        ratios[:] = 0.0
    return norms * ratios * np.where(keep, survivors, 1.0) / steps_left
