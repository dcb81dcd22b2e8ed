"""Every penalty on a kernel x everything that is done to a model: each kind answers, is left behind, and leaves nothing."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.graph.additions import additions_of
from tf_reweight.graph.copying import without_penalties
from tf_reweight.kernels.table import find
from tf_reweight.penalties.attachment import add, attachments
from tf_reweight.penalties.base import KernelPenalty, replaced
from tf_reweight.penalties.proximal import Silent
from tf_reweight.penalties.reweighted import Combined, Reweighted
from tf_reweight.quantization.levels import ToLevels, regularize_levels
from tf_reweight.reports.curves import Curves, NormSummaries
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow.run import Run
from tf_reweight.workflow.stages import stages_of

L = keras.layers


@keras.saving.register_keras_serializable(package="user")
class Ridge(KernelPenalty):
    """A user's own heir, written with the public interface alone: `strength * sum of squares`, one group per column."""

    no_proximal_step = "a ridge gives no zeros"

    def __init__(self, strength=1e-3, layout=None):
        super().__init__(strength)
        self.structure = tfr.structures.get("filter")
        self.layout = tfr.kernels.layout.Layout.from_config(layout) if layout else None
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    @property
    def bound(self):
        return self.layout is not None

    @property
    def negligible(self):
        return 1e-2

    def bind(self, layout):
        return Ridge(self.strength, layout.get_config())

    def norms(self, kernel):
        return self.structure.group_norms(self.layout.to_standard(ops.cast(kernel, "float32")))

    def __call__(self, kernel):
        return self.strength * ops.sum(ops.square(ops.cast(kernel, "float32")))

    def get_config(self):
        return {"strength": self.strength, "layout": self.layout.get_config() if self.bound else None}


def net():
    """A nested model, with an L2 of the user's on kernels inside and outside."""
    inside = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            L.Conv2D(6, 3, padding="same", kernel_regularizer=keras.regularizers.L2(1e-2), name="inside"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
        ],
        name="block",
    )
    x = keras.Input((8, 8, 2))
    h = L.Conv2D(8, 3, activation="relu", name="stem", kernel_regularizer=keras.regularizers.L2(1e-2))(x)
    h = L.GlobalAveragePooling2D(name="pool")(inside(h))
    return keras.Model(x, L.Dense(3, name="top")(L.Dense(8, activation="relu", name="hidden")(h)))


def own_penalty(model):
    for target in find(model)[0]:
        add(target, Ridge(1e-3).bind(target.layout))


def combined(model):
    tfr.regularize(model, "filter", 1e-3)
    tfr.regularize(model, "unstructured", 1e-4, "arctan")


def silent(model):
    tfr.regularize(model, "filter", 1e-3)
    for item in attachments(model):
        item.target.variable.regularizer = replaced(item.target.regularizer, Silent)


KINDS = {
    "reweighted": lambda model: tfr.regularize(model, "filter", 1e-3),
    "squared": lambda model: tfr.regularize(model, "unstructured", 1e-3, "log_squared"),
    "lasso": lambda model: tfr.regularize(model, "unstructured", 1e-3, "lasso"),
    "n_of_m": lambda model: tfr.regularize(model, {"name": "n_of_m", "n": 1, "m": 2}, 1e-3, layers=["hidden", "top"]),
    "combined": combined,
    "coupled": lambda model: tfr.regularize_coupled(model, 1e-3),
    "relative": lambda model: tfr.regularize_coupled(model, 1e-3, relative=True),
    "admm": lambda model: tfr.baselines.ADMM("unstructured", 0.5).attach(model),
    "levels": lambda model: regularize_levels(model, 4),
    "silent": silent,
    "own": own_penalty,
    "budget": lambda model: tfr.regularize(model, "filter", budget="weights=0.8"),
    "coupled budget": lambda model: tfr.regularize_coupled(model, budget="weights=0.8"),
}
COUPLED = ("coupled", "relative", "coupled budget")
ADDING_NOTHING = ("budget", "coupled budget")
# One kind of a configuration, one of all channels, and one that the model had: these train in every stage, and in compiled
# steps. Of the others only the training with the penalty differs, and nothing is left to differ once `prune` has taken it off.
WHOLE = ("reweighted", "coupled", "own")


# Kinds that differ from another one here by a formula alone, which no copy of a model sees: `reweighted` and `coupled` go the
# same ways.
ALIKE = ("squared", "lasso", "relative")
COPIED = [pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else ()) for kind in KINDS]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 16)


def penalised(kind):
    model = net()
    KINDS[kind](model)
    return model


def compiled(model, run_eagerly=True):
    """Eager by default: for one batch, a compiled step takes a hundred times as long to make as to run."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=run_eagerly)
    return model


def own_regularizers(model):
    """What the user put on the kernels, by name."""
    return {target.name: target.regularizer.get_config() for target in find(model)[0] if target.regularizer is not None}


def check_plain(model, expected=None):
    assert additions_of(model) == [] and attachments(model) == []
    assert own_regularizers(model) == (own_regularizers(net()) if expected is None else expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_the_interface(kind):
    model = penalised(kind)
    carried = attachments(model)
    assert carried
    for item in carried:
        penalty, kernel = item.regularizer, item.target.variable.value
        assert isinstance(penalty, KernelPenalty) and penalty.bound and penalty.parts() == (penalty,)
        assert isinstance(penalty.strength, float) and isinstance(penalty.negligible, float)
        norms, compared = np.asarray(penalty.norms(kernel)), np.asarray(penalty.compared_norms(kernel))
        assert norms.shape == compared.shape and (norms >= 0).all() and np.isfinite(compared).all()
        value = float(penalty(kernel))
        assert tuple(penalty(kernel).shape) == () and (value == 0 if kind in ADDING_NOTHING else value > 0)
        assert penalty.spans_several == (kind in COUPLED)
        assert penalty.spans_several or penalty.structure.group_shape(item.target.standard_shape) == norms.shape
        assert type(item.target.regularizer.bind(item.target.layout)) is type(item.target.regularizer)
        if penalty.renewable:
            np.testing.assert_allclose(np.asarray(penalty.update(kernel)), norms, rtol=1e-6)
        else:
            with pytest.raises(ValueError, match=f"Reweighting.*Received: .*{type(penalty).__name__}"):
                penalty.update(kernel)


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_several_answers_for_all(kind):
    model = penalised(kind)
    holding = [target for target in find(model)[0] if isinstance(target.regularizer, KernelPenalty)]
    assert holding
    for target in holding:
        holder, kernel = target.regularizer, target.variable.value
        parts = holder.parts()
        assert holder.strength == max(part.strength for part in parts)
        assert holder.negligible == min(part.negligible for part in parts)
        assert np.size(holder.norms(kernel)) == sum(np.size(part.norms(kernel)) for part in parts)
        assert holder.bound and holder.misfit(target.standard_shape) is None


@pytest.mark.parametrize("kind", KINDS)
def test_prune_takes_it_off_and_keeps_the_users_own(kind, data):
    model = penalised(kind)
    if kind in COUPLED:
        with pytest.raises(ValueError, match="prune_groups"):
            tfr.prune(model)
        with pytest.warns(UserWarning, match="do not meet" if "budget" in kind else "Nothing was removed"):
            tfr.prune_groups(model)
    else:
        amount = {} if kind == "n_of_m" else {"sparsity": 0.5}
        report = tfr.prune(model, **amount)
        # Whole groups go, and the ranking ends before the first that does not fit, of a ninth of all weights at most.
        assert 0.0 <= 0.5 - report.sparsity < 1 / 9
    check_plain(model)
    zeros = {name: count for name, (count, _) in tfr.sparsity(model).items()}
    compiled(model).fit(*data, verbose=0)
    assert {name: count for name, (count, _) in tfr.sparsity(model).items()} == zeros


@pytest.mark.parametrize("kind", COPIED)
def test_shrink_leaves_it_behind(kind, data):
    model = net()
    tfr.prune_groups(model, 0.5)
    KINDS[kind](model)
    small = tfr.shrink(model)
    check_plain(small)
    np.testing.assert_allclose(small(data[0], training=False), model(data[0], training=False), atol=1e-5)
    compiled(small).fit(*data, verbose=0)


@pytest.fixture(scope="module")
def plainly_quantized():
    """The model without any penalty, quantized: the shapes of its weights and its outputs."""
    keras.utils.set_random_seed(1)
    plain, x = tfr.quantize(net()), np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype("float32")
    return [w.shape for w in plain.weights], np.asarray(plain(x, training=False))


@pytest.mark.parametrize("kind", COPIED)
def test_quantize_leaves_it_behind(kind, data, plainly_quantized):
    keras.utils.set_random_seed(1)
    model = penalised(kind)
    quantized = tfr.quantize(model)
    assert additions_of(quantized) == [] and attachments(model)
    shapes, outputs = plainly_quantized
    assert [w.shape for w in quantized.weights] == shapes
    np.testing.assert_array_equal(quantized(data[0], training=False), outputs)
    compiled(quantized).fit(*data, verbose=0)


@pytest.mark.parametrize("kind", COPIED)
def test_detach_and_strip_leave_it_behind(kind, data):
    model = penalised(kind)
    plain = tfr.strip(model)
    check_plain(plain)
    np.testing.assert_allclose(plain(data[0], training=False), model(data[0], training=False), atol=1e-6)
    assert tfr.detach(model) > 0
    check_plain(model)
    assert float(sum(model.losses)) == pytest.approx(float(sum(plain.losses)))


@pytest.mark.parametrize("kind", KINDS)
def test_curves_and_summaries_record_it(kind, data):
    model = compiled(penalised(kind), run_eagerly=kind not in WHOLE)
    curves, summaries = Curves(), NormSummaries()
    model.fit(*data, epochs=2, verbose=0, callbacks=[curves, summaries])
    carried = attachments(model)
    norms = [np.asarray(item.regularizer.norms(item.target.variable.value)) for item in carried]
    living = sum(int((norm > item.regularizer.negligible).sum()) for norm, item in zip(norms, carried))
    last, record = curves.history[-1], summaries.history[-1]
    assert last["num_groups"] == record["num_groups"] == sum(norm.size for norm in norms)
    assert last["living_groups"] == record["living_groups"] == living
    assert last["strength"] == max(item.regularizer.strength for item in carried)
    expected = sum(float(item.regularizer(item.target.variable.value)) for item in carried)
    assert last["penalty"] == pytest.approx(expected, rel=1e-4)


UNSTRUCTURED = [{"structure": "unstructured", "strength": 1e-3}]
WITHOUT_PENALTY = [{"structure": "unstructured"}]
# What a configuration says of each kind. The others are on the model that `compress` is given.
SECTIONS = {
    "reweighted": {"rules": [{"structure": "filter", "strength": 1e-3}]},
    "squared": {"rules": UNSTRUCTURED, "penalty": "log_squared"},
    "lasso": {"rules": UNSTRUCTURED, "method": "lasso"},
    "n_of_m": {"rules": [{"structure": {"name": "n_of_m", "n": 1, "m": 2}, "layers": ["hidden", "top"]}]},
    "combined": {"rules": [{"structure": "filter"}, {"structure": "unstructured", "strength": 1e-4}], "penalty": "arctan"},
    "coupled": {"coupled": {"strength": 1e-3}},
    "relative": {"coupled": {"strength": 1e-3, "relative": True}},
    "admm": {"rules": WITHOUT_PENALTY, "method": "admm"},
}


SAVED = [kind for kind in KINDS if kind != "silent"]  # which stands on a kernel only while steps are taken


STAGED = [kind for kind in SAVED if kind != "coupled budget"]  # which Reweighting refuses by name


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else ()) for kind in STAGED])
def test_the_stages_of_compress_leave_it_behind(kind, data, tmp_path, monkeypatch):
    """All that `compress` does but the files, which no longer have penalties."""
    monkeypatch.setattr("tf_reweight.workflow.run.check_convertible", lambda run: None)
    monkeypatch.setattr("tf_reweight.workflow.run.check_better_than_chance", lambda *given: None)  # where nothing is trained
    taken_off_by = SECTIONS["coupled"] if kind in COUPLED else {"rules": WITHOUT_PENALTY, "method": "one_shot"}
    section = SECTIONS.get(kind, taken_off_by)
    settings = {
        "train": {"epochs": int(kind in WHOLE or kind not in SECTIONS), "batch_size": 16},
        "regularize": {"rounds": 1 if kind in SECTIONS and kind != "admm" else 2, "every": 1, **section},
        "prune": {} if kind == "n_of_m" else {"sparsity": 0.5},
        "retrain": {"epochs": 1},
    }
    model = net() if kind in SECTIONS else penalised(kind)
    # A copy for each stage is compiled as the model is; see `compiled`.
    compiled(model, run_eagerly=kind not in WHOLE)
    run = Run(settings, model, tfr.data.Dataset("mine", data, data, data, 3, ("a", "b", "c")), (), QUIET, None)
    with run.open(tmp_path / "run"):
        for stage in stages_of(run.config)[: None if kind in WHOLE else -1]:
            run.do(stage)
            carried = attachments(run.model)
            assert bool(carried) == (stage.name in ("dense", "regularized") and (stage.name != "dense" or kind not in SECTIONS))
    assert stage.name == ("retrained" if kind in WHOLE else "pruned")
    check_plain(keras.saving.load_model(tmp_path / "run" / f"{stage.name}.keras", compile=False))
    entries = run.folder.figures("pruned")["details"]["sets" if kind in COUPLED else "kernels"]
    assert any(entry["kept_groups"] < entry["num_groups"] for entry in entries)
    assert sum(zeros for zeros, _ in tfr.sparsity(run.model).values()) > 0


@pytest.mark.parametrize("kind", SAVED)
def test_it_comes_back_after_save_and_load(kind, tmp_path):
    model = penalised(kind)
    for item in attachments(model):
        if item.regularizer.renewable:
            item.regularizer.update(item.target.variable.value, 0.05)
    value = float(sum(model.losses))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(sum(loaded.losses)) == pytest.approx(value, rel=1e-5)
    for mine, other in zip(attachments(model), attachments(loaded), strict=True):
        assert type(mine.regularizer) is type(other.regularizer)
        assert mine.regularizer.get_config() == other.regularizer.get_config()
        assert mine.regularizer.negligible == pytest.approx(other.regularizer.negligible)
        for one, two in zip(mine.regularizer.variables, other.regularizer.variables, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(one.value), ops.convert_to_numpy(two.value))
    assert tfr.detach(loaded) == tfr.detach(model)
    assert own_regularizers(loaded) == own_regularizers(model) == own_regularizers(net())


def test_only_what_is_renewed_goes_with_reweighting_and_only_sums_of_norms_with_a_proximal_step(data):
    for kind in ("admm", "own"):
        with pytest.raises(ValueError, match="can renew.*Received: .*'stem/kernel'"):
            compiled(penalised(kind)).fit(*data, verbose=0, callbacks=[tfr.callbacks.Reweighting()])
    reasons = {"admm": "ADMM", "own": "ridge", "levels": "levels", "squared": "squared", "coupled": "coupled"}
    for kind, reason in reasons.items():
        with pytest.raises(ValueError, match=f"{reason}.*Received: "):
            compiled(penalised(kind)).fit(*data, verbose=0, callbacks=[tfr.penalties.proximal.Proximal()])


def test_a_copy_keeps_what_is_no_penalty_of_ours():
    l1, l2, ours = keras.regularizers.L1(0.1), keras.regularizers.L2(0.2), Reweighted("filter", 1e-3)
    serialize = keras.saving.serialize_keras_object
    assert without_penalties(serialize(Combined([l2, ours, Ridge()]))) == serialize(l2)
    assert without_penalties(serialize(Combined([ours, ToLevels()]))) is None
    both = keras.saving.deserialize_keras_object(without_penalties(serialize(Combined([l2, Combined([ours, l1])]))))
    kernel = np.asarray([[1.0, -2.0], [0.5, 3.0]], "float32")
    assert float(both(kernel)) == pytest.approx(0.1 * 6.5 + 0.2 * 14.25)
    assert without_penalties({"kernel_regularizer": serialize(Ridge()), "units": 3}) == {"kernel_regularizer": None, "units": 3}


def test_a_penalty_that_does_not_answer_everything_cannot_be_made():
    class Half(KernelPenalty):
        def norms(self, kernel):
            return kernel

    with pytest.raises(TypeError, match="abstract"):
        Half(1.0)
