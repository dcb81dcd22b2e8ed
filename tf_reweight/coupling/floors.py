"""How many groups a set keeps at least: one, unless the network goes on without it; a multiple that suits the hardware."""

import numpy as np

from tf_reweight.checks import check_integer
from tf_reweight.kernels import allocation


class Floors:
    """Gives sets back their best groups where too many were to go.

    Args:
        coupled: `groups(model)`.
        minimum: groups each set keeps; 0 lets a set go whose branch has a bypass.
        multiple_of: the channels kept are a multiple of this, or all.
        gone: per set a bool array `(num_groups,)`: groups that are removed already and never come back; None: none are.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(self, coupled, minimum=1, multiple_of=1, gone=None):
        check_integer("minimum", minimum, 0, fix="1 is safe; 0 lets whole residual branches go.")
        check_integer("multiple_of", multiple_of, 1, fix="1, 8 or 16.")
        self.coupled, self.minimum, self.multiple_of = coupled, minimum, multiple_of
        self.gone = [np.zeros(item.num_groups, bool) for item in coupled.sets] if gone is None else gone

    def __call__(self, keeps, scores):
        """Keep flags that respect the floors.

        Args:
            keeps: one bool array `(num_groups,)` per set.
            scores: one array `(num_groups,)` per set, by which the best are found.

        Returns:
            `(keeps, rescued)`; `rescued` has, per set, the number of groups kept only so that it is not empty.
        """
        gone, kept, rescued = [], [], []
        for item, keep, score, was_gone in zip(self.coupled.sets, keeps, scores, self.gone):
            ones = (~was_gone).astype("int64")
            keep = np.array(keep, bool) & ~was_gone
            if not keep.any() and self.minimum == 0 and has_bypass(self.coupled, gone + [item]):
                gone.append(item)
                kept.append(keep)
                rescued.append(0)
                continue
            keep, saved = allocation.keep_at_least(keep, score, ones, max(1, self.minimum))
            wanted = item.rounded_up(int(keep.sum()), self.multiple_of)
            kept.append(allocation.keep_at_least(keep, score, ones, wanted)[0])
            rescued.append(saved)
        return kept, rescued

    def fill(self, keeps, scores, fits):
        """Keep flags with the best groups given back, so many of a set at a time that the floors are respected, while they fit.

        A multiple of 8 of 16 channels is half of a layer: without it a net with few channels ends far below what it may have.

        Args:
            keeps: one bool array `(num_groups,)` per set, which respects the floors and fits.
            scores: one array `(num_groups,)` per set: of what fits, the groups of the highest mean come first.
            fits: function of such keep flags: whether so much may be left.
        """
        keeps = list(keeps)
        while True:
            for number, more in self._more(keeps, scores):
                tried = [*keeps[:number], more, *keeps[number + 1 :]]
                if fits(tried):
                    keeps = tried
                    break
            else:
                return keeps

    def _more(self, keeps, scores):
        """`(number of the set, its keep flags)` with the next multiple of each set that has lost some, the best first."""
        found = []
        for number, (item, keep, score, was_gone) in enumerate(zip(self.coupled.sets, keeps, scores, self.gone)):
            # A set that is gone whole had a bypass: it is worth nothing to bring a part of it back.
            if (keep | was_gone).all() or not keep.any():
                continue
            wanted = item.rounded_up(int(keep.sum()) + 1, self.multiple_of)
            more = allocation.keep_at_least(keep, score, ~was_gone, wanted)[0]
            found.append((float(score[more & ~keep].mean()), number, more))
        return [(number, more) for _, number, more in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def has_bypass(coupled, sets):
    """Whether every output of the model still depends on its input when all channels of these sets are zero."""
    dead = np.concatenate([item.labels for item in sets])

    def all_dead(labels):
        return bool(np.isin(coupled.trace.labels.roots(labels), dead).all())

    silent = set()
    for step in coupled.trace.steps:
        inputs = [id(signal) in silent for signal in step.inputs]
        # Heads and recurrent units never show in a tensor: whoever reads only dead ones of them says nothing.
        mute = inputs and (
            all(inputs) or (step.product and any(inputs))
            or any(read.source is None and all_dead(read.entry.labels) for read in step.reads)
        )  # fmt: skip
        silent.update(id(signal) for signal in step.outputs if mute or all_dead(signal.labels))
    return not any(id(signal) in silent for signal in coupled.trace.outputs)
