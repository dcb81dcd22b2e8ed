"""What `compress` chooses where the user names a budget alone."""

import keras
import numpy as np
import pytest

from tf_reweight import budget as budgets
from tf_reweight import coupling
from tf_reweight.workflow import defaults


@pytest.fixture(scope="module")
def net():
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((6,)), *layers])


def chosen(model, budget):
    """The multiple that channels keep, and the budget as it stands in the configuration."""
    made = defaults.configuration(model, None, defaults.CHANNELS, budget, 4, {}, None, None)
    assert made["regularize"]["method"]["multiple_of"] == made["shrink"]["multiple_of"]
    return made["shrink"]["multiple_of"], made["prune"]["budget"]


@pytest.mark.parametrize("budget", ["macs=0.4", "parameters=0.2", "parameters=300", "weights=0.3", "sparsity=0.9"])
def test_multiples_leave_a_budget_within_reach(net, budget):
    multiple, given = chosen(net, budget)
    assert given == budgets.get(budget).to_dict()
    copy = keras.models.clone_model(net)
    coupling.prune_groups(copy, budget=given, multiple_of=multiple)
    assert any(np.count_nonzero(weight) < weight.size for weight in copy.get_weights() if weight.ndim == 2)


@pytest.mark.parametrize(
    "budget, multiple",
    [("macs=0.9", 8), ("macs=700", 8), ("parameters=0.22", 4), ("sparsity=0.9", 1), ("bytes=0.6", 4), ("latency_ms=2.5", 1),
     ("accuracy_drop=0.01", 8)],
)  # fmt: skip
def test_multiples_are_the_largest_that_leave_room(net, budget, multiple):
    assert chosen(net, budget)[0] == multiple


def test_without_a_budget_half_of_the_computing_goes(net):
    assert chosen(net, None) == (8, budgets.get("macs=0.5").to_dict())
