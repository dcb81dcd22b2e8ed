"""What a model stores and computes, counted as its graph says."""

import keras
import pytest

from tests import nets
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.shrinking import shrink

L = keras.layers


def stack():
    return keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(5)])


STACK_MACS = 36 * 27 * 4 + 144 * 5


def test_kernels_count_once_for_each_position_and_call():
    shared = L.Dense(7)
    x = keras.Input((5, 3))
    model = keras.Model(x, shared(L.Dense(7)(shared(x))[..., :3]))
    assert count_macs(model) == 5 * 21 + 5 * 49 + 5 * 21
    assert count_macs(stack()) == STACK_MACS


def test_calls_outside_of_the_model_do_not_count():
    """A Sequential model that was made from layers of another, a layer that was tried out, a nested model."""
    model = stack()
    other = keras.Sequential([keras.Input((8, 8, 3)), *model.layers])
    model.layers[0](keras.Input((32, 32, 3)))
    assert count_macs(model) == count_macs(other) == STACK_MACS
    x = keras.Input((8, 8, 3))
    assert count_macs(keras.Model(x, L.Add()([model(x), model(x)]))) == 2 * STACK_MACS


@pytest.mark.parametrize("build", [stack, *nets.NETS])
def test_a_copy_that_lost_nothing_counts_the_same(build):
    model = build()
    same = shrink(model)
    assert (count_macs(same), count_parameters(same)) == (count_macs(model), count_parameters(model))
