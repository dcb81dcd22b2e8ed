"""Baselines by one key of a configuration: the same rules, stages and report, and refused where they cannot work."""

import dataclasses
import inspect
import types

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import coupling, workflow
from tf_reweight.penalties.proximal import Proximal
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import config, methods, stages

L = keras.layers
NATURAL = {"name": "pattern", "positions": "natural", "entries": 4, "num_patterns": 3}
# One row per method: what a configuration says, the structure, `prune`, and the share of the convolution's weights it removes.
METHODS = {
    "reweighted": ("reweighted", "kernel", {"sparsity": 0.5}, 0.5),
    "reweighted pattern": ("reweighted", NATURAL, {}, 5 / 9),
    "lasso": ("lasso", "filter", {"sparsity": 0.5}, 0.5),
    "lasso pattern": ("lasso", "pattern", {}, 5 / 9),
    "multi_gradient": ({"name": "multi_gradient", "clip": 0.15}, "unstructured", {}, None),
    "multi_gradient budget": ("multi_gradient", "filter", {"budget": "weights=0.5"}, 0.5),
    "admm": ({"name": "admm", "rho": [1e-2, 1.0]}, "kernel", {"sparsity": 0.5, "scope": "layer"}, 0.5),
    "admm pattern": ("admm", NATURAL, {}, 5 / 9),
    "gradual": ("gradual", "filter", {"sparsity": 0.5}, 0.5),
    "gradual pattern": ("gradual", "pattern", {}, 5 / 9),
    "gradual tfmot": (
        {"name": "gradual", "schedule": {"name": "constant", "target_sparsity": 0.25, "begin_step": 2, "frequency": 2}},
        "unstructured", {}, 0.25,
    ),
    "clipping": ({"name": "clipping", "threshold": 0.15}, "unstructured", {}, None),
    "deadline": ({"name": "deadline", "until": 0.6}, "filter", {"budget": "weights=0.5"}, 0.5),
    "iterative": ("iterative", "unstructured", {"sparsity": 0.5}, 0.5),
    "one_shot": ("one_shot", {"name": "block", "shape": [3, 2]}, {"sparsity": 0.5}, 0.5),
    "one_shot by magnitude": ({"name": "one_shot", "criterion": "magnitude"}, "filter", {"budget": "weights=0.5"}, 0.5),
    "gradual by magnitude": ({"name": "gradual", "criterion": "magnitude"}, "unstructured", {"sparsity": 0.5}, 0.5),
    "admm by relative norms": ({"name": "admm", "criterion": "relative"}, "filter", {"sparsity": 0.5}, 0.5),
    "one_shot n_of_m": ("one_shot", {"name": "n_of_m", "n": 1, "m": 4, "axis": "out"}, {}, 0.75),
}  # fmt: skip


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((32, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 32)


def small_net():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, activation="relu", name="conv")(image)
    return keras.Model(image, L.Dense(3, name="top")(L.GlobalAveragePooling2D()(x)))


def settings_of(method, structure, amount):
    strength = {"strength": 1e-3} if "strength" in methods.get(method).of_rule else {}
    rules = [{"structure": structure, "layers": "conv", **strength}]
    return config.load({"regularize": {"method": method, "rules": rules, "rounds": 2, "every": 2}, "prune": amount})


def test_every_method_is_in_the_table():
    assert {methods.get(row[0]).name for row in METHODS.values()} == set(methods.names())


@pytest.mark.filterwarnings("ignore:Only 10 training steps come before the deadline")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_as_many_zeros_as_it_was_told_and_reports_them(name, data):
    said, structure, amount, share = METHODS[name]
    settings, model = settings_of(said, structure, amount), small_net()
    method = methods.get(settings.regularize.method)
    left_out = method.put(model, settings.regularize, settings.prune)
    callbacks = method.callbacks(settings.regularize, settings.prune, 16)
    if method.trains:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
        model.fit(*data, batch_size=8, epochs=4, callbacks=callbacks, verbose=0)
    report = tfr.prune(model, **method.pruning(settings.prune))
    zeros, size = tfr.sparsity(model)["conv/kernel"]
    (kernel,) = report.kernels
    assert (kernel.name, kernel.structure) == ("conv/kernel", tfr.structures.get(structure).name)
    assert kernel.kept_weights == size - zeros and kernel.sparsity == pytest.approx(zeros / size, rel=1e-12)
    assert 0 < zeros < size if share is None else zeros >= share * size - 1e-6
    assert "top/kernel" in {**left_out, **{item.name: item.reason for item in report.left_out}}
    assert not tfr.penalties.attachment.attachments(model)
    figures = method.figures(callbacks)
    for name, records in figures.items():
        # The stage may come again: its records are counted on then, by all epochs that it trained for.
        unit, length = ("epoch", 4) if "epoch" in records[0] else ("step", 16)
        twice = [record[unit] for record in stages.merged([{"details": figures, "epochs": 4}] * 2, 4)[name]]
        once = [record[unit] for record in records]
        assert records and twice == once + [number + length for number in once]


@pytest.mark.parametrize("criterion", [None, "gamma", "kernel"])
@pytest.mark.parametrize("amount", [{"macs": 0.5}, {"sparsity": 0.5}, {"budget": {"macs": 0.5}}])
@pytest.mark.parametrize("method", ["reweighted", "lasso", "one_shot"])
def test_the_criterion_of_channels_ranks_whatever_says_how_much_goes(method, amount, criterion):
    coupled = {} if criterion is None else {"criterion": criterion}
    settings = config.load({"regularize": {"method": method, "coupled": coupled}, "prune": amount})
    how = methods.get(method).grouping(settings.regularize, settings.prune)
    assert how["criterion"] == criterion
    model = small_net()
    coupling.prune_groups(model, **how)
    same = small_net()
    coupling.prune_groups(same, **amount, **coupled)
    assert all(map(np.array_equal, model.get_weights(), same.get_weights()))


class Around(keras.Model):
    """What a trainer may make: inside it every layer has another path, and no outputs are known."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def call(self, x, training=None):
        return self.inner(x, training=training)


@pytest.mark.filterwarnings("ignore:The .* act now:UserWarning", "ignore:The zeros of .* are held now:UserWarning")
@pytest.mark.parametrize("layers", ["conv", "*", None])
@pytest.mark.parametrize("name", ["gradual", "gradual pattern", "clipping"])
def test_rules_select_in_the_model_whatever_a_trainer_puts_around_it(name, layers, data):
    said, structure, amount, _ = METHODS[name]
    structure = "filter" if name == "clipping" else structure
    settings, model = settings_of(said, structure, amount), small_net()
    settings.regularize.rules[0].layers = layers
    if name == "clipping":  # the second filter is to go
        kernel = model.get_layer("conv").kernel
        kernel.assign(ops.convert_to_numpy(kernel) * (np.arange(8) != 1))

    def fit(model, label, epochs, learning_rate, callbacks):
        around = Around(model)
        # Eagerly: what is found where does not depend on it, and sixteen steps take less time than to make one graph.
        around.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        around.fit(*data, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
        return []

    feed = types.SimpleNamespace(train=types.SimpleNamespace(num_batches=4))
    stage = types.SimpleNamespace(times_before=0)
    context = types.SimpleNamespace(config=settings, data=feed, stage=stage, logs=None, fit=fit)
    stages._regularize(model, context)
    zeros = {name: num for name, (num, _) in tfr.sparsity(model).items()}
    assert zeros["conv/kernel"] > 0 and zeros["top/kernel"] == 0


@pytest.mark.parametrize("name", METHODS)
def test_config_round_trip(name):
    method = methods.get(METHODS[name][0])
    assert methods.get(method.serialize()) == method
    resolved = settings_of(*METHODS[name][:3])
    assert config.load(resolved.model_dump(mode="json")) == resolved


def test_keys_that_stood_beside_the_method_mean_the_same():
    old = {"penalty": {"name": "log_sum", "epsilon": "1e-1"}, "epsilon": [0.5, 0.05], "restart": False}
    old |= {"growth": 1, "solver": "proximal", "step": "1e-1"}
    assert config.load({"regularize": old}) == config.load(
        {"regularize": {"method": {"name": "reweighted", **old, "step": 0.1}}}
    )
    overrides = ["regularize.solver=proximal", "regularize.step=1e-1"]
    assert methods.get(config.load({}, overrides).regularize.method).step == 0.1
    # An override of the method takes the old one's settings along.
    assert config.load({"regularize": old}, ["regularize.method=lasso"]).regularize.method["solver"] == "gradient"


WRAPPED = {
    "reweighted": (Proximal, coupling.CoupledProximal, tfr.regularize, tfr.regularize_coupled),
    "lasso": (Proximal, coupling.CoupledProximal),
    "multi_gradient": (tfr.callbacks.MultiGradient,),
    "admm": (tfr.baselines.ADMM,),
    "gradual": (tfr.baselines.GradualMagnitude,),
    "clipping": (tfr.baselines.Clipping,),
    "deadline": (tfr.callbacks.BudgetProximal,),
    "iterative": (tfr.callbacks.IterativePruning,),
    "one_shot": (coupling.prune_groups,),
}


@pytest.mark.parametrize("name", methods.names())
def test_one_name_has_one_default(name):
    """What a configuration does not say means what it means to the functions that the method calls."""
    empty = inspect.Parameter.empty
    known = {field.name: field.default for field in dataclasses.fields(methods.get(name))}
    known |= {key: default for key, default in methods.get(name).of_rule.items() if key != "strength"}
    found = [inspect.signature(function).parameters for function in WRAPPED[name]]
    shared = {(key, parameters[key].default) for parameters in found for key in known if key in parameters}
    # None leaves it to the function, so that all functions must agree.
    assert all(known[key] in (None, default) for key, default in shared if default is not empty)
    assert len({key for key, _ in shared}) == len(shared) and (shared or name == "one_shot")


# What a method finds and records is above for each; a whole run of one is in `test_extending` and in `test_workflow`.
@pytest.mark.slow
def test_a_baseline_from_yaml_makes_the_same_report(tmp_path):
    """Nothing but the method differs: the same stages, files and figures, and kernels with the same fields."""
    tiny = {
        "name": "tiny", "data": {"limit": 200}, "train": {"epochs": 1}, "retrain": {"epochs": 1},
        "regularize": {"rules": [{"strength": 1e-4}], "rounds": 2, "every": 1}, "prune": {"sparsity": 0.75},
        "export": {"precisions": ["float32"], "latency_runs": 2, "representative": 16, "verify": 16, "pack": False},
    }  # fmt: skip
    ours = workflow.compress(tiny, out=tmp_path / "ours", console=QUIET)
    without = ["regularize.method=gradual", "regularize.rules.0.strength=null"]
    baseline = workflow.compress(tiny, out=tmp_path / "baseline", overrides=without, console=QUIET)
    assert ours.keys() == baseline.keys()
    assert [stage["name"] for stage in ours["stages"]] == [stage["name"] for stage in baseline["stages"]]
    assert [file["name"] for file in ours["files"]] == [file["name"] for file in baseline["files"]]
    assert [kernel.keys() for kernel in ours["kernels"]] == [kernel.keys() for kernel in baseline["kernels"]]
    assert ours["num_nonzero"] == baseline["num_nonzero"] == 40_536 // 4
    assert ours["rounds"] and not ours["updates"] and baseline["updates"] and not baseline["rounds"]
    assert baseline["updates"][-1]["sparsity"] == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    "regularize, amount, words",
    [
        ({"method": "adm"}, {}, "Did you mean 'admm'"),
        ({"method": {"name": ["admm"]}, "step": 1}, {}, "expected a known method"),
        ({"method": {"name": "admm", "roh": 1}}, {}, "Did you mean 'rho'"),
        ({"method": {"name": "admm", "rho": 0}}, {"sparsity": 0.5}, "`rho` must be"),
        ({"method": {"name": "admm", "every": 9}, "rounds": 3, "every": 3},
         {"sparsity": 0.5}, ": ADMM has to update before the 9 epochs"),
        ({"method": "admm"}, {}, "must be told how much"),
        ({"method": "one_shot"}, {}, "must be told how much"),
        ({"method": "gradual"}, {}, "must be told how much"),
        ({"method": {"name": "admm", "criterion": "taylor"}}, {"sparsity": 0.5}, "Valid: lamp, magnitude, relative."),
        ({"method": {"name": "admm", "criterion": "lamp"}, "rules": [{"structure": "n_of_m"}]}, {}, "nothing is ranked"),
        ({"method": {"name": "gradual", "criterion": "lampp"}}, {"sparsity": 0.5}, "Did you mean 'lamp'"),
        ({"method": {"name": "one_shot", "criterion": "lampp"}}, {"sparsity": 0.5}, "Did you mean 'lamp'"),
        ({"method": {"name": "one_shot", "criterion": "lamp"}, "rules": [{"structure": "n_of_m"}]}, {}, "nothing is ranked"),
        ({"method": {"name": "one_shot", "criterion": "taylor"}, "coupled": {}}, {"budget": "macs=0.5"}, "kernel_l1, lamp."),
        ({"method": {"name": "one_shot", "criterion": "lamp"}, "coupled": {"criterion": "gamma"}},
         {"budget": "macs=0.5"}, "expected one criterion"),
        ({"method": "clipping"}, {"sparsity": 0.5}, "Leave prune.sparsity out"),
        ({"method": "admm", "rules": [{"structure": "pattern"}]}, {"sparsity": 0.5}, "for the structure to say"),
        ({"method": "one_shot", "rules": [{"structure": "n_of_m"}]}, {"budget": "weights=0.2"}, "for the structure to say"),
        ({"method": "reweighted", "rules": [{"structure": "n_of_m"}]}, {"budget": "weights=0.2"}, "for the structure to say"),
        ({"method": "gradual", "rules": [{}, {"structure": "filter"}]}, {"sparsity": 0.5}, "takes one rule"),
        ({"method": "gradual", "coupled": {}}, {"sparsity": 0.5}, "takes single kernels"),
        ({"method": "gradual", "growth": 2.0}, {"sparsity": 0.5}, "Leave out regularize.growth"),
        ({"method": {"name": "gradual", "growth": 2.0}}, {"sparsity": 0.5}, "Valid: criterion, schedule"),
        ({"method": "gradual", "rules": [{"strength": 1e-3}]}, {"sparsity": 0.5}, "Leave out regularize.rules.0.strength"),
        ({"method": "lasso", "penalty": "arctan"}, {}, "Leave out regularize.penalty"),
        ({"penalty": "log_squared", "solver": "proximal"}, {}, "acts on squared norms"),
        ({"penalty": "log_squared", "solver": "proximal", "coupled": {}}, {}, "acts on squared norms"),
        ({"method": "lasso", "coupled": {"relative": False}}, {}, "Leave out regularize.coupled.relative"),
        ({"method": "deadline", "coupled": {"strength": 1.0}}, {"sparsity": 0.5}, "Leave out regularize.coupled.strength"),
        ({"method": "deadline", "coupled": {}}, {"macs": 0.5}, "must be told how much"),
        ({"method": {"name": "deadline", "criterion": "taylr"}, "coupled": {}}, {"sparsity": 0.5}, "Did you mean 'taylor'"),
        ({"method": {"name": "deadline", "criterion": "gamma"}}, {"budget": "macs=0.5"},
         "Valid: lamp, magnitude, relative, taylor"),
        ({"method": {"name": "deadline", "multiple_of": 8}}, {"budget": "macs=0.5"}, "channels that go together"),
        ({"method": {"name": "iterative", "criterion": "taylor"}, "coupled": {}}, {"budget": "macs=0.5"}, "Valid: lamp."),
        ({"method": {"name": "iterative", "rounds": 3}}, {"sparsity": 0.5}, "Valid: criterion"),
        ({"method": "iterative"}, {}, "must be told how much"),
        ({"method": "clipping"}, {"budget": "weights=0.5"}, "Leave out prune.budget"),
        ({"step": 0.1}, {}, "`step` belongs to the proximal solver"),
        ({"solver": "proximl"}, {}, "Did you mean 'proximal'"),
        ({"method": {"name": "reweighted", "restart": "no"}}, {}, "`restart` must be a bool"),
        ({"method": {"name": "reweighted", "step": 1, "solver": "proximal"}, "step": 2}, {}, "said once"),
        ({"method": {"name": "gradual", "schedule": {"name": "linear"}}}, {}, "Valid: constant"),
        ({"method": {"name": "clipping", "threshold": -1}}, {}, "`threshold` must be"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(regularize, amount, words):
    with pytest.raises(ValueError, match="Received: ") as raised:
        config.load({"regularize": regularize, "prune": amount})
    assert words in str(raised.value)


@pytest.mark.parametrize("accumulate", [None, 4])
def test_gradual_pruning_over_a_training_ends_with_it(accumulate, data):
    """Where the optimizer moves the weights once in four steps as well."""
    model = small_net()
    settings = settings_of("gradual", "unstructured", {"sparsity": 0.75})
    optimizer = keras.optimizers.Adam(1e-3, gradient_accumulation_steps=accumulate)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    callbacks = methods.get("gradual").callbacks(settings.regularize, settings.prune, 16)
    model.fit(*data, batch_size=8, epochs=4, callbacks=callbacks, verbose=0)
    assert (ops.convert_to_numpy(model.get_layer("conv").kernel) == 0).mean() == 0.75
    assert len(callbacks[0].history) > 2 and callbacks[0].history[0]["sparsity"] == 0.0


def test_gradual_pruning_that_was_cut_off_keeps_its_zeros(data):
    """A model loaded in the middle of a schedule has zeros and steps, but no masks: what was removed stays removed."""
    from tf_reweight.baselines import GradualMagnitude, PolynomialDecay

    def compiled(model):
        model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", jit_compile=False)
        return model

    model, schedule = compiled(small_net()), PolynomialDecay(0.5, 0.75, 0, 12, frequency=4)
    model.fit(*data, batch_size=8, epochs=1, callbacks=[GradualMagnitude(schedule, layers="conv")], verbose=0)
    before = ops.convert_to_numpy(model.get_layer("conv").kernel) == 0
    assert before.mean() >= 0.5
    tfr.release(model)
    model.fit(*data, batch_size=32, epochs=1, callbacks=[GradualMagnitude(schedule, layers="conv")], verbose=0)
    assert (ops.convert_to_numpy(model.get_layer("conv").kernel)[before] == 0).all()
