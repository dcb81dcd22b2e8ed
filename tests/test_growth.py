"""What is done once must not be done once for each channel or layer: operations are counted, not timed."""

import tracemalloc

import keras
import numpy as np
import pytest

from tf_reweight import shrinking
from tf_reweight.kernels import allocation, table
from tf_reweight.shrinking import dead

L = keras.layers


class Counter:
    """Counts the calls of a function that it stands in for."""

    def __init__(self, monkeypatch, module, name):
        self.count, function = 0, getattr(module, name)

        def counted(*args, **kwargs):
            self.count += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def half_dead(width):
    """Two hidden layers of a width in which every other channel leaves a constant."""
    hidden = [L.Dense(width, activation="relu", bias_initializer="ones") for _ in range(2)]
    model = keras.Sequential([keras.Input((4,)), *hidden, L.Dense(3)])
    for layer in hidden:
        layer.kernel.assign(np.asarray(layer.kernel.value) * (np.arange(width) % 2))
    return model


def test_shrink_reads_each_array_once_however_many_channels_are_dead(monkeypatch):
    counts = []
    for width in (8, 64):
        with monkeypatch.context() as patch:
            counter = Counter(patch, dead.ops, "convert_to_numpy")
            _, report = shrinking.shrink(half_dead(width), return_report=True)
        assert report.removed_groups == width, "half of both layers"
        counts.append(counter.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.999])
def test_groups_of_one_size_are_ranked_as_sorting_ranks_them(sparsity):
    """Ties by position, infinities and what is no number last, over several kernels."""
    rng = np.random.default_rng(0)
    scores = [rng.integers(0, 4, (2, 9)).astype("float64"), rng.random((1, 13)), np.full((1, 5), 2.0)]
    for special in (None, np.inf, np.nan):
        if special is not None:
            scores[0][0, 3] = special
        for size in (1, 9):
            members = [np.full(score.shape, size) for score in scores]
            keeps = allocation.by_sparsity(scores, members, sparsity)
            flat = np.concatenate([score.ravel() for score in scores])
            gone = int(sparsity * flat.size * size + 1e-6) // size
            expected = np.ones(flat.size, bool)
            expected[np.argsort(flat, kind="stable")[:gone]] = False
            np.testing.assert_array_equal(np.concatenate([keep.ravel() for keep in keeps]), expected)


def test_ranking_single_weights_takes_a_copy_and_no_sorting():
    scores = [np.random.default_rng(0).random((1, 50_000)) for _ in range(4)]
    members = [np.broadcast_to(np.int64(1), score.shape) for score in scores]
    tracemalloc.start()
    try:
        allocation.by_sparsity(scores, members, 0.8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Float64 scores once more, and flags; sorting takes 41 bytes for each.
    assert peak < 16 * 200_000


def test_finding_kernels_asks_no_nested_model_for_all_of_its_weights(monkeypatch):
    """Each level would give those of all below it, once for each of them."""
    inner = None
    for number in range(6):
        inputs = keras.Input((4,))
        x = L.Dense(4, name=f"dense_{number}")(inputs)
        inner = keras.Model(inputs, x if inner is None else inner(x), name=f"level_{number}")
    asked, weights = [], L.Layer.weights.fget
    monkeypatch.setattr(L.Layer, "weights", property(lambda self: asked.append(self) or weights(self)))
    found, _ = table.walk(inner)
    assert [target.name.split("/")[-2] for target in found] == [f"dense_{number}" for number in range(5, -1, -1)]
    assert not any(isinstance(layer, keras.Model) for layer in asked)
