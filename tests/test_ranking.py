"""Which groups go for a budget: those of lowest score, however they are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_reweight.kernels.budgeted import Demand, choose
from tf_reweight.kernels.quantities import Curve, Linear, Quantity


class Unknown(Quantity):
    """An amount of which only the whole is known, as of channels, whose costs depend on the others."""

    def __init__(self, inner):
        self._inner = inner

    def at(self, keep):
        return self._inner.at(keep)

    def changes(self, keep):
        return self._inner.changes(keep)


SCORES = st.one_of(
    st.floats(0.0, 1.0), st.sampled_from([0.0, -0.0, 0.25, 0.5, np.inf]), st.floats(0.0, 1e300), st.floats(0.0, 1e-300),
)  # fmt: skip


@st.composite
def tasks(draw):
    """Scores with ties and extremes, some groups that stay or are gone, one budget or two, counted or of files."""
    num = draw(st.integers(1, 30))
    scores = np.array(draw(st.lists(SCORES, min_size=num, max_size=num)))
    state = np.array(draw(st.lists(st.sampled_from("....sg"), min_size=num, max_size=num)))
    demands = []
    for _ in range(draw(st.integers(1, 2))):
        costs = np.array(draw(st.lists(st.integers(0, 4), min_size=num, max_size=num)), "float64")
        quantity = Linear(costs, float(draw(st.integers(0, 3))))
        if draw(st.booleans()):
            quantity = Curve(quantity, [0.0, 10.0, 40.0], [5.0, 9.0, 80.0])
        total = quantity.at(np.ones(num, bool))
        demands.append(Demand("weights", quantity, max(total * draw(st.floats(0.05, 1.0)), 1e-3)))
    return scores, demands, state == "s", state == "g"


def result(scores, demands, spared, gone, exact):
    try:
        chosen = choose(scores, demands, spared, exact=exact, gone=gone)
    except ValueError as error:
        return str(error)
    return chosen.keep.tolist(), chosen.marginal


@settings(max_examples=300, deadline=None)
@given(tasks(), st.booleans())
def test_counting_by_leading_bits_finds_what_sorting_finds(task, exact):
    scores, demands, spared, gone = task
    sorted_for = [Demand(demand.name, Unknown(demand.quantity), demand.limit) for demand in demands]
    assert result(scores, demands, spared, gone, exact) == result(scores, sorted_for, spared, gone, exact)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 30.0])
def test_of_many_groups_those_of_lowest_score_go(spread):
    """Scores within few leading bits, and over many."""
    scores = np.exp(spread * np.random.default_rng(0).normal(size=20000))
    demand = Demand("weights", Linear(np.ones(len(scores))), 0.3 * len(scores))
    chosen = choose(scores, [demand], np.zeros(len(scores), bool))
    order = np.argsort(scores)
    assert chosen.keep.sum() == 6000 and chosen.keep[order[14000:]].all() and chosen.marginal == scores[order[13999]]
