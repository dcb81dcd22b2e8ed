"""Laws every penalty obeys: it is 0 at 0, its weight is its derivative, its linearisation lies above it."""

import numpy as np
import pytest
from keras import ops
from tables import PENALTIES

from tf_reweight import penalties

NORMS = np.array([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 2.0])
every = pytest.mark.parametrize("penalty", PENALTIES, ids=str)


def value(penalty, norms):
    return ops.convert_to_numpy(penalty.value(ops.convert_to_tensor(norms, "float64")))


def weight(penalty, norms):
    return ops.convert_to_numpy(penalty.weight(ops.convert_to_tensor(norms, "float64")))


def test_every_penalty_is_in_the_table():
    assert {penalty.name for penalty in PENALTIES} == set(penalties.names())


@every
def test_zero_at_zero_and_growing(penalty):
    assert value(penalty, NORMS)[0] == 0.0
    assert (np.diff(value(penalty, NORMS)) > 0).all()


@every
def test_weight_is_the_derivative(penalty):
    """d value / d (r ** power), by central differences."""
    measure = NORMS[1:] ** penalty.power
    step = 1e-5 * measure
    numeric = (
        value(penalty, (measure + step) ** (1 / penalty.power)) - value(penalty, (measure - step) ** (1 / penalty.power))
    ) / (2 * step)
    np.testing.assert_allclose(weight(penalty, NORMS[1:]), numeric, rtol=1e-5)


@every
def test_weight_is_finite_at_zero_and_never_grows(penalty):
    weights = weight(penalty, NORMS)
    assert np.isfinite(weights).all() and (weights > 0).all()
    assert (np.diff(weights) <= 0).all()


@every
def test_linearisation_majorises(penalty):
    """value(r) <= value(r0) + weight(r0) * (r ** power - r0 ** power) for all pairs: each round can only descend."""
    for start in NORMS:
        line = value(penalty, start) + weight(penalty, start) * (NORMS**penalty.power - start**penalty.power)
        assert (value(penalty, NORMS) <= line + 1e-12).all()


@every
def test_config_round_trip(penalty):
    assert penalties.get(penalty.serialize()) == penalty


def test_defaults_are_those_documented():
    found = {name: penalties.get(name).get_config() for name in penalties.names()}
    expected = {"log_sum": {"epsilon": 0.01}, "arctan": {"epsilon": 0.01}, "log_squared": {"epsilon": 1e-4}, "lasso": {}}
    assert found == expected
    rules = {name: penalties.epsilons.get(name).serialize() for name in ("fixed", "annealed", "adaptive")}
    assert rules["fixed"]["value"] == 0.01 and (rules["annealed"]["first"], rules["annealed"]["last"]) == (0.1, 1e-3)
    assert (rules["adaptive"]["keep"], rules["adaptive"]["minimum"]) == (0.1, 1e-3)


def test_a_sum_without_penalties_of_ours_frees_nothing():
    holder = penalties.reweighted.Combined(["l2"])
    assert holder.negligible == 0.0 and holder.strength == 0.0 and holder.parts() == ()


def test_epsilon_can_be_overridden():
    assert float(penalties.LogSum(0.1).weight(ops.convert_to_tensor(0.0), 0.5)) == pytest.approx(2.0)


@pytest.mark.parametrize("epsilon", [0, -1e-3, "small", True])
def test_bad_epsilon_is_explained(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be a finite number > 0. Received: epsilon="):
        penalties.LogSum(epsilon)


def test_unknown_names_name_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'log_sum'"):
        penalties.get("logsum")
    with pytest.raises(ValueError, match="Did you mean 'epsilon'"):
        penalties.get({"name": "log_sum", "epsilom": 1})


@pytest.mark.parametrize("epsilon", [float("inf"), 1e308, 1e37, 1e-38, 1e-300])
@pytest.mark.parametrize("name", [penalty.name for penalty in PENALTIES if hasattr(penalty, "epsilon")])
def test_an_epsilon_that_single_precision_cannot_divide_by_is_refused(name, epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be .* Received: epsilon="):
        penalties.get({"name": name, "epsilon": epsilon})


@every
def test_with_every_epsilon_that_is_taken_single_precision_computes(penalty):
    ends = {"log_sum": 1e36, "log_squared": 1e36, "arctan": 1e18}
    for epsilon in (ends[penalty.name], 1 / ends[penalty.name]) if penalty.name in ends else ():
        weights = ops.convert_to_numpy(penalties.get({"name": penalty.name, "epsilon": epsilon}).weight(ops.zeros((2,))))
        assert np.isfinite(weights).all() and (weights > 0).all()
