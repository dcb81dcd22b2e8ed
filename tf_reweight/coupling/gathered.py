"""Proximal steps on coupled groups, gathered: one for every few training steps, as large as they are together."""

from keras import ops

from tf_reweight.penalties.soft_threshold import EVERY


class Gathered:
    """Gathers proximal steps until there are enough for one; without training in between, soft thresholds add up exactly.

    Args:
        apply: takes float32 steps, a scalar tensor.
        every: training steps that one proximal step stands for.
    """

    def __init__(self, apply, every=EVERY):
        self._apply, self._every = apply, every
        self._steps, self._amount = 0, 0.0

    def add(self, steps, amount, now=False):
        """After so many training steps, which are to be pressed by so many; `now` where weights are looked at next."""
        self._steps, self._amount = self._steps + steps, self._amount + amount
        if now or self._steps >= self._every:
            self.flush()

    def flush(self):
        """Applies what was gathered."""
        amount, self._steps, self._amount = self._amount, 0, 0.0
        if amount > 0:
            self._apply(ops.convert_to_tensor(amount, "float32"))
