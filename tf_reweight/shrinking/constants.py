"""When a number that was computed in many places is one and the same."""

import numpy as np

# Relative spread below which a constant channel is the same number everywhere; float noise between positions.
_SAME = 1e-6


def is_uniform(low, high):
    """Whether each channel's smallest and largest values are equal up to float noise."""
    return not np.any(high - low > _SAME * np.maximum(1.0, np.abs(high)))
