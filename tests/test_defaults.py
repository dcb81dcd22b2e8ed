"""What `compress` chooses where the user names a budget alone."""

import keras
import numpy as np
import pytest

from tf_reweight import budget as budgets
from tf_reweight import coupling, workflow
from tf_reweight.workflow import defaults, task


@pytest.fixture(scope="module")
def net():
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((6,)), *layers])


def chosen(model, budget):
    """The multiple that channels keep, and the budget as it stands in the configuration."""
    made = defaults.configuration(model, None, defaults.CHANNELS, budget, 4, {}, None, None)
    assert made["regularize"]["method"]["multiple_of"] == made["shrink"]["multiple_of"]
    return made["shrink"]["multiple_of"], made["prune"]["budget"]


@pytest.mark.parametrize("name, made", [("..", "model"), ("a b", "a_b"), ("n" * 400, "n" * 200), (".a", ".a")])
def test_a_run_has_the_models_name_as_far_as_a_folder_can(name, made):
    """The configuration was refused, of which the user had given none."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name=name)
    assert loaded(model, structure="unstructured").name == made


@pytest.mark.parametrize("budget", ["macs=0.4", "parameters=0.2", "parameters=300", "weights=0.3", "sparsity=0.9"])
def test_multiples_leave_a_budget_within_reach(net, budget):
    multiple, given = chosen(net, budget)
    assert given == budgets.get(budget).to_dict()
    copy = keras.models.clone_model(net)
    coupling.prune_groups(copy, budget=given, multiple_of=multiple)
    assert any(np.count_nonzero(weight) < weight.size for weight in copy.get_weights() if weight.ndim == 2)


@pytest.mark.parametrize(
    "budget, multiple",
    [("macs=0.9", 8), ("macs=700", 8), ("parameters=0.22", 4), ("sparsity=0.9", 1), ("latency_ms=2.5", 1),
     ("bytes=0.6", 1), ("bytes=3600", 4), ("bytes=9000", 8),
     ("accuracy_drop=0.01", 8)],
)  # fmt: skip
def test_multiples_are_the_largest_that_leave_room(net, budget, multiple):
    assert chosen(net, budget)[0] == multiple


def test_without_a_budget_half_of_the_computing_goes(net):
    assert chosen(net, None) == (8, budgets.get("macs=0.5").to_dict())


@pytest.mark.parametrize("structure", ["channels", "filter", "unstructured"])
@pytest.mark.parametrize("section", [
    {"learning_rate": 1e-3}, {"method": {"name": "deadline", "criterion": "lamp"}}, {"method": {"name": "iterative"}},
    {"penalty": "lasso"},
])  # fmt: skip
def test_a_structure_is_that_of_the_run_whatever_else_is_configured(net, structure, section):
    """With any key of `regularize` given, channels became single weights, and nothing was removed."""
    made = defaults.configuration(net, None, structure, "macs=0.5", 4, {"regularize": section}, None, None)["regularize"]
    if structure == "channels":
        assert made["coupled"] == {} and "rules" not in made
    else:
        assert made["rules"] == [{"structure": structure}] and "coupled" not in made
    assert all(made["method"][key] == value for key, value in section.get("method", {}).items())


@pytest.mark.parametrize("budget", ["macs=0.5", None])
@pytest.mark.parametrize("section, structure", [
    ({"every": 4}, "channels"), ({"rounds": 2, "every": 2}, "channels"), ({"coupled": {}}, "channels"),
    ({"rules": [{"structure": "filter"}]}, "filter"), ({"tensorboard": True}, "channels"), (None, "channels"),
])  # fmt: skip
def test_who_does_not_say_how_gets_a_deadline_and_an_amount(net, section, structure, budget):
    """With the epochs of a stage given, a penalty of a made-up strength took the place of the budget: nothing was removed."""
    made = defaults.configuration(net, None, "channels", budget, None, {"regularize": section}, None, None)
    assert made["regularize"]["method"]["name"] == "deadline"
    assert {key: made["regularize"][key] for key in section or {}} == (section or {})
    expected = {"budget": {"macs": 0.5}} if budget or structure == "channels" else {"sparsity": 0.5}
    assert made["prune"] == expected


@pytest.mark.parametrize("section", [
    {"method": "lasso"}, {"penalty": "lasso"}, {"coupled": {"strength": 0.7}}, {"rules": [{"strength": 1e-4}]},
    {"rules": [{"structure": "filter"}, {"structure": "unstructured"}]},
])  # fmt: skip
def test_who_says_how_is_not_told_how_much(net, section):
    made = defaults.configuration(net, None, "channels", None, None, {"regularize": section}, None, None)
    assert {key: made["regularize"][key] for key in section} == section and "prune" not in made
    assert made["regularize"].get("method") == section.get("method")


@pytest.mark.parametrize("given", [{}, {"regularize": {"method": "deadline"}}])
def test_single_kernels_have_a_later_deadline_than_channels(net, given):
    """What single kernels lose comes back in `retrain`."""
    untils = {name: loaded(net, given, structure=name).regularize.method["until"] for name in ("channels", "filter", "block")}
    assert untils["channels"] < untils["filter"] == untils["block"] < 1


LAMP = {"name": "deadline", "criterion": "lamp"}


@pytest.mark.parametrize("structure", ["channels", "filter", "unstructured"])
@pytest.mark.parametrize("budget", [None, "weights=0.5"])
@pytest.mark.parametrize("method", ["deadline", {"name": "deadline"}, LAMP, {"name": "deadline", "until": 0.7}])
def test_who_names_the_deadline_changes_what_is_said_of_it_alone(net, structure, budget, method):
    """`criterion: lamp`, the advice of docs/choosing.md, changed the deadline and the epochs as well, or was refused."""
    for epochs in (None, 12):
        expected = loaded(net, {}, budget, epochs, structure).model_dump()
        expected["regularize"]["method"] |= {"name": method} if isinstance(method, str) else method
        assert loaded(net, {"regularize": {"method": method}}, budget, epochs, structure).model_dump() == expected


def test_coupled_that_is_null_leaves_the_structure_to_the_run(net):
    for structure in ("channels", "filter"):
        assert loaded(net, {"regularize": {"coupled": None}}, structure=structure) == loaded(net, structure=structure)


@pytest.mark.parametrize("method", ["iterative", "one_shot", "admm", "gradual"])
@pytest.mark.parametrize("structure", ["channels", "filter", "unstructured"])
def test_a_method_that_must_be_told_how_much_goes_is_told(net, method, structure):
    found = loaded(net, {"regularize": {"method": method}}, structure=structure)
    assert found.regularize.method["name"] == method
    if found.regularize.coupled is not None:
        assert found.prune.budget == {"macs": 0.5} and structure == "channels" and method in ("iterative", "one_shot")
    else:
        assert found.prune.sparsity == (0.5 if structure == "filter" else 0.8)


def test_who_configures_what_goes_as_well_has_the_method_of_configurations(net):
    """`prune.macs` is of penalties, and a deadline would refuse it."""
    given = {"regularize": {"coupled": {}, "rounds": 1, "every": 1}, "prune": {"macs": 0.3}}
    made = defaults.configuration(net, None, "channels", None, None, given, None, None)
    assert {key: made[key] for key in given} == given
    assert workflow.config.load(made).regularize.method["name"] == "reweighted"


def loaded(model, given=None, budget=None, epochs=None, structure="channels", told=None):
    """The checked configuration of a model with these arguments."""
    given = workflow.config.read({} if given is None else given)
    return workflow.config.load(defaults.configuration(model, told, structure, budget, epochs, given, None, None))


@pytest.mark.parametrize("epochs", [None, 12])
def test_a_section_that_is_null_asks_for_no_stage(net, epochs):
    """Every resolved configuration has such sections; clusters and int8 were added to the run."""
    net.compile("adam", "mse")
    for told in (None, task.of_model(net)):
        resolved = workflow.Config()
        assert loaded(net, resolved.model_dump(), epochs=epochs, told=told).steps == resolved.steps
        assert loaded(net, resolved, epochs=epochs, told=told).steps == resolved.steps
        for name in workflow.config.STEPS:
            assert loaded(net, {name: None}, epochs=epochs, told=told) == loaded(net, epochs=epochs, told=told), name


@pytest.mark.parametrize("structure, budget", [("channels", "macs=0.5"), ("filter", "weights=0.5")])
def test_a_section_prune_without_an_amount_says_nothing_of_how_much_goes(net, structure, budget):
    """`prune: null`, `{}` and all keys written out were "said twice" beside a budget."""
    for asked in (None, budget):
        alone = loaded(net, {}, asked, structure=structure)
        for prune in ({}, None, {"threshold": None, "sparsity": None, "macs": None, "budget": None, "scope": None}):
            assert loaded(net, {"prune": prune}, asked, structure=structure) == alone, prune
    for given in (workflow.Config(), workflow.Config(regularize={"coupled": {}})):
        assert loaded(net, given, budget).prune.budget == budgets.get(budget).to_dict()
    how = loaded(net, {"regularize": {"method": "lasso"}, "prune": {"scope": "model"}}, budget, structure="filter").prune
    assert (how.scope, how.budget) == ("model", budgets.get(budget).to_dict())


@pytest.mark.parametrize("section", [
    {"regularize": {"method": "lasso"}, "prune": {"scope": "layer", "budget": "weights=0.5"}},
    {"regularize": {"method": "lasso"}, "prune": {"scope": "layer", "threshold": 0.1}},
    {"prune": {"scope": "layer"}},
    {"regularize": {"coupled": {}}, "prune": {"scope": "layer"}},
])  # fmt: skip
def test_a_scope_without_a_sparsity_is_refused_before_any_training(section):
    """Beside a budget of single kernels the refusal came after the training, without an amount never."""
    with pytest.raises(ValueError, match="prune.scope says where a prune.sparsity has to hold"):
        workflow.Config(**section)
    amount = {"sparsity": 0.5, "budget": None, "threshold": None}
    workflow.Config(**{**section, "prune": {**section["prune"], **amount}})


@pytest.mark.parametrize("prune", [{"threshold": 0.1}, {"sparsity": 0.0}, {"macs": 0.3}, {"budget": "macs=0.3"}])
def test_how_much_goes_is_said_once(net, prune):
    with pytest.raises(ValueError, match="said twice.*Received: budget='macs=0.5', prune="):
        loaded(net, {"prune": prune}, "macs=0.5")


@pytest.mark.parametrize("budget", [None, "macs=0.5"])
@pytest.mark.parametrize("stages", [
    ["train", "regularize", "prune", "retrain"], ["train", "regularize", "prune", "retrain", "quantize"], ["train", "retrain"],
    ["train", "regularize", "prune", "shrink", "retrain"],
])  # fmt: skip
def test_stages_are_those_that_were_named(net, stages, budget):
    """Without `shrink` among them, every run of channels was refused for a section that nobody had given."""
    found = loaded(net, {"stages": stages}, budget)
    assert list(found.steps) == stages and found.regularize.coupled is not None
    assert (found.shrink is not None) == ("shrink" in stages)


def trained(model):
    """A copy with an optimizer step behind it, which counts as trained."""
    model = keras.models.clone_model(model)
    model.compile("sgd", "mse")
    model.fit(np.zeros((2, 6)), np.zeros((2, 1)), verbose=0)
    return model


TWICE = ["train", *["regularize", "prune", "retrain"] * 2]
RUNS = {
    "default": {}, "quantized": {"quantize": {}}, "clusters": {"cluster": {}, "quantize": {}}, "again": {"stages": TWICE},
    "rounds": {"regularize": {"method": "reweighted"}}, "said": {"regularize": {"method": "reweighted", "rounds": 3}},
    "both": {"stages": TWICE, "regularize": {"method": "reweighted"}}, "one shot": {"regularize": {"method": "one_shot"}},
    "fast": {"stages": ["train", "regularize", "prune", "shrink", "retrain"], "regularize": {"method": "lasso"}},
    "alone": {"stages": ["train", "regularize", "prune"], "regularize": {"method": "lasso"}},
}  # fmt: skip


@pytest.mark.parametrize("given", RUNS.values(), ids=list(RUNS))
def test_the_epochs_of_all_stages_together_are_those_that_were_asked_for(net, given):
    """A stage that came again had its share each time, and rounds that did not divide the share lost the rest."""
    for model, done in ((net, 0), (trained(net), 1)):
        stages = [name for name in loaded(model, given).steps if name not in ("prune", "shrink")]
        needed = len(stages) - done - (given is RUNS["one shot"])
        for epochs in range(needed, 40):
            found = loaded(model, given, epochs=epochs)
            total = sum(found.epochs.values())
            # Two stages that both come twice have an even number.
            assert total == epochs - (epochs % 2 if given in (RUNS["again"], RUNS["both"]) and done else 0), found.epochs
            assert all(num >= found.steps.count(name) for name, num in found.epochs.items() if name != "train" and num)
        for epochs in range(needed):
            with pytest.raises(ValueError, match=f"must be at least {needed}, one for each.*Received: epochs={epochs}. Pass"):
                loaded(model, given, epochs=epochs)


@pytest.mark.parametrize("num", [1, 2, 5, 7, 8, 10, 30])
@pytest.mark.parametrize("given", [{}, {"regularize": {"method": "reweighted"}}])
def test_epochs_of_a_stage_are_those_that_were_asked_for(net, given, num):
    assert loaded(net, given, epochs={"regularize": num, "train": 3}).epochs == {"train": 3, "regularize": num, "retrain": 10}


def test_a_trained_model_can_be_left_without_any_training(net):
    given = {"stages": ["train", "shrink"]}
    assert loaded(trained(net), given, epochs=0).epochs == {"train": 0}
    assert loaded(trained(net), given, epochs={"train": 2}).epochs == {"train": 2}
    one_shot = loaded(net, {"regularize": {"method": "one_shot"}}, epochs={"train": 1, "regularize": 0, "retrain": 0})
    assert one_shot.epochs == {"train": 1, "regularize": 0, "retrain": 0}


@pytest.mark.parametrize("given, epochs, words", [
    ({}, {"quantize": 3}, "must be of stages that train in this run: train, regularize, retrain.*Leave 'quantize' out"),
    ({"regularize": {"method": "one_shot"}}, {"regularize": 3}, "must be of stages that train in this run: train, retrain"),
    ({}, {"regularize": -3}, r"epochs\['regularize'\]. must be an int >= 1.*Received: .*-3"),
    ({}, {"regularize": 0}, r"epochs\['regularize'\]. must be an int >= 1"),
    ({"quantize": {}}, {"quantize": 0}, r"epochs\['quantize'\]. must be an int >= 1"),
    ({}, {"regularize": "3"}, r"epochs\['regularize'\]. must be an int >= 1.*Received: .*'3'"),
    ({}, {"train": 2.5}, r"epochs\['train'\]. must be an int >= 0"), ({}, {"retrain": None}, "must be an int >= 0"),
    ({}, {"tran": 3}, "Did you mean 'train'"), ({}, -1, "`epochs` must be an int >= 0"),
    ({}, True, "`epochs` must be a number, or one for each stage"),
    ({"regularize": {"rounds": "3"}}, 30, "`regularize.rounds` must be an int >= 1.*Received: regularize.rounds='3'"),
    ({"regularize": {"rounds": None}}, 30, "`regularize.rounds` must be an int >= 1"),
    ({"regularize": {"rounds": 0}}, {"regularize": 3}, "`regularize.rounds` must be an int >= 1"),
    ({"regularize": {"rounds": 4}}, {"regularize": 10}, "multiple of its rounds.*epochs=10, rounds=4. Pass 8 or 12 epochs"),
])  # fmt: skip
def test_epochs_that_cannot_be_are_refused_in_our_words(net, given, epochs, words):
    """They ended in the words of Python, or were dropped."""
    with pytest.raises(ValueError, match=words) as raised:
        loaded(net, given, epochs=epochs)
    assert "Received: " in str(raised.value)


def test_epochs_without_a_stage_to_go_to_are_refused(net):
    """Nothing but `train` trains, which a trained model does not need: the numbers were divided by zero."""
    with pytest.raises(ValueError, match="need a stage to go to.*Received: epochs=3. Pass"):
        loaded(trained(net), {"stages": ["train", "shrink"]}, epochs=3)


def test_a_structure_that_decides_needs_no_stage_that_finds_zeros():
    """Without `regularize` among the stages, it could not be taken out of a list."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3)])
    found = loaded(model, {"stages": ["train", "retrain"]}, epochs=9, structure="pattern")
    assert sum(found.epochs.values()) == 9


@pytest.mark.parametrize("stages", [5, "train", ["retrain"], ["train", "shrnk"], []])
def test_stages_that_are_none_are_refused(net, stages):
    with pytest.raises(ValueError, match="(?s)stages.*Received: "):
        loaded(net, {"stages": stages}, epochs=6)


@pytest.mark.parametrize("name", ["regularize", "prune", "train", "shrink", "task"])
@pytest.mark.parametrize("section", [5, [1], "half"])
def test_a_section_that_is_none_is_refused_by_name(net, name, section):
    with pytest.raises(ValueError, match=f"`{name}` in the configuration: input should be a valid dictionary"):
        defaults.configuration(net, None, "channels", "macs=0.5", 4, {name: section}, None, None)


def test_rules_and_coupled_of_a_configuration_go_before_the_structure(net):
    for section in ({"rules": [{"structure": "block"}]}, {"coupled": {}}):
        given = {"regularize": {"method": "deadline", **section}}
        made = defaults.configuration(net, None, "filter", "macs=0.5", 4, given, None, None)["regularize"]
        assert {key: made[key] for key in ("rules", "coupled") if key in made} == section
    # What knows no channels has none by default.
    made = defaults.configuration(net, None, "channels", None, 4, {"regularize": {"method": "clipping"}}, None, None)
    assert "coupled" not in made["regularize"]


@pytest.mark.parametrize("method", ["deadline", "iterative", {"name": "iterative"}, {"name": "deadline", "multiple_of": 2}])
def test_a_method_meets_the_budget_with_the_channels_that_are_left_in_the_end(net, method):
    """It cut to the budget, and shrinking filled up to multiples that it did not know of: 45 % were left of 40 %."""
    made = defaults.configuration(net, None, "channels", "macs=0.4", 4, {"regularize": {"method": method}}, None, None)
    own = method["multiple_of"] if isinstance(method, dict) and "multiple_of" in method else made["shrink"]["multiple_of"]
    assert made["regularize"]["method"]["multiple_of"] == own


def test_a_method_may_be_set_beside_a_model_and_a_budget(net, tmp_path):
    """The advice of docs/choosing.md; it was refused as if nothing said how much goes."""
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    keras.Model(inputs, keras.layers.Dense(10)(hidden)).save(tmp_path / "a.keras")
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((60, 64), "float32"), y=np.arange(60) % 10)
    overrides = ["regularize.method={name: deadline, criterion: lamp}"]
    overrides += [f"model.name={tmp_path / 'a.keras'}", f"data.name={tmp_path / 'a.npz'}"]
    plan = workflow.plan_by_names(budget="macs=0.5", epochs=6, overrides=overrides)
    assert plan["config"]["regularize"]["method"]["criterion"] == "lamp" and plan["config"]["regularize"]["coupled"] is not None


def asked_for(monkeypatch, *args, **options):
    """What `compress` would run: a configuration as it is, or one that was filled for a model."""
    runs = []
    monkeypatch.setattr(workflow, "Run", lambda config, *rest: runs.append(config))
    monkeypatch.setattr(workflow, "_finished", lambda run, out: None)
    workflow.compress(*args, **options)
    return runs[0]


def test_a_misspelt_structure_is_told_of_the_default(net):
    with pytest.raises(ValueError, match="Did you mean 'channels'[?] Valid: .*channel, channels, "):
        defaults.configuration(net, None, "chanels", None, None, {}, None, None)


def test_by_keywords_alone_compress_is_the_call_whose_arguments_they_are(net, monkeypatch):
    """A model, a configuration and a budget ended in Python's words about a function that nobody had called."""
    net.compile("adam", "mse")
    config = {"data": {"name": "digits"}}
    for more in ({"budget": "macs=0.5"}, {"epochs": 6}, {"structure": "filter"}, {"monitor": "loss"}, {"callbacks": []}):
        values = asked_for(monkeypatch, model=net, config=config, **more)
        assert values == asked_for(monkeypatch, net, config=config, **more) and "prune" in values
    for more in ({}, {"model": net}, {"model": net, "out": "a", "overrides": ()}):
        assert asked_for(monkeypatch, config=config, **more) == asked_for(monkeypatch, config, **more) == config


def test_a_configuration_first_refuses_what_belongs_to_a_model_first(net, monkeypatch):
    config = {"data": {"name": "digits"}}
    for more in ({"budget": "macs=0.5"}, {"model": net, "epochs": 6}, {"budgets": []}):
        with pytest.raises(TypeError, match=f"with a configuration first takes .*Received: unknown=.*{[*more][-1]}"):
            asked_for(monkeypatch, config, **more)
    with pytest.raises(TypeError, match="with a model first takes model, .*unknown=.'loss_weights'.. Losses, metrics"):
        asked_for(monkeypatch, net, loss_weights=[1])


def test_outputs_without_a_loss_are_named(net):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in ("told", "untold")])
    for loss in (["mse", None], {"told": "mse", "untold": None}):
        model.compile("sgd", loss)
        with pytest.warns(UserWarning, match="No loss is about the outputs untold: "):
            task.say_outputs_without_loss(task.of_model(model), model.output_names)
    for loss in ("mse", ["mse", "mae"], {"told": "mse", "untold": "mae"}):
        model.compile("sgd", loss)
        task.say_outputs_without_loss(task.of_model(model), model.output_names)
