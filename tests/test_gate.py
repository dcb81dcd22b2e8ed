"""`tf-reweight check`: a file measured against what is asked of it, with an exit status for continuous integration."""

import json

import keras
import numpy as np
import pytest

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.export import conversion, samples
from tf_reweight.export.figures import Figure
from tf_reweight.tflite import ends

L = keras.layers
CATEGORIES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a classifier, its int8 file as converted, and labelled examples that it gets right."""
    folder = tmp_path_factory.mktemp("gate")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    export.export_tflite(model, folder / "int8.tflite", "int8", x, accelerated=False)
    export.export_tflite(model, folder / "whole.tflite", "int8", x)
    model.save(folder / "model.keras")
    labels = np.asarray(model(x)).argmax(-1)
    np.savez(folder / "data.npz", x_train=x, y_train=labels, x_val=x, y_val=labels, x_test=x, y_test=labels)
    (folder / "mine.py").write_text(
        "import numpy as np\n\ndef load():\n    stored = np.load(__file__.replace('mine.py', 'data.npz'))\n"
        "    return (stored['x_train'], stored['y_train']), (stored['x_val'], stored['y_val'])\n"
    )
    return folder


def check(folder, name, *words):
    return main.console(["check", str(folder / name), *words])


@pytest.mark.parametrize("shift", [100, -50, np.nan, 0.5])
def test_labels_that_are_no_classes_are_an_error_and_no_agreement(made, shift):
    model, stored = keras.saving.load_model(made / "model.keras"), np.load(made / "data.npz")
    data = (stored["x_test"], stored["y_test"] + shift)
    with pytest.raises(ValueError, match=r"Labels must be whole numbers in 0\.\.2\. Received: labels="):
        export.check_file(made / "whole.tflite", agrees_with=model, data=data)


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(3)[y]])
def test_labels_of_any_form_are_numbers_of_classes(made, form):
    """As a column, which data sets bring, and one-hot ones were passed over: what was measured then was agreement."""
    model, stored = keras.saving.load_model(made / "model.keras"), np.load(made / "data.npz")
    labels = form(np.where(np.arange(64) < 16, (stored["y_test"] + 1) % 3, stored["y_test"]))
    found = export.check_file(made / "whole.tflite", agrees_with=model, data=(stored["x_test"], labels), max_drop=0.1)
    assert "of the model 75.00%" in str(found.to_dict())


def test_labels_that_the_loss_ignores_are_none_of_the_classes(made):
    model, stored = keras.saving.load_model(made / "model.keras"), np.load(made / "data.npz")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=255))
    labels = np.where(np.arange(64) < 8, 255, stored["y_test"])
    assert export.check_file(made / "whole.tflite", agrees_with=model, data=(stored["x_test"], labels), max_drop=0.1).passed


def test_what_the_system_says_of_a_path_has_the_form_of_our_errors(made, capsys):
    for command in ("check", "inspect"):
        assert main.console([command, "x" * 300]) in (1, 2)
        assert "the system says: File name too long. Received: file='xxx" in capsys.readouterr().err


def test_shapes_and_threads_that_cannot_be_are_errors_of_every_command(made, capsys):
    path = str(made / "whole.tflite")
    for words in (["inspect", path, "--shape", "a"], ["inspect", path, "--shape", "1,7"]):
        assert main.console(words) == 2
        assert "error: `shape" in capsys.readouterr().err
    assert main.console(["benchmark", path, "--threads", "99999999999"]) == 2
    assert "`num_threads` must be an int in 1..1024." in capsys.readouterr().err


def test_a_file_that_is_all_that_was_asked_for(made, capsys):
    words = ["--max_bytes", "100000", "--max_ms", "1000", "--fully_accelerated", "--json"]
    words += ["--agrees_with", str(made / "model.keras"), "--data", str(made / "data.npz"), "--max_drop", "0.1"]
    assert check(made, "whole.tflite", *words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["passed"] and [item["name"] for item in figures["requirements"]] == [
        "runs", "size", "fully accelerated", "time", "agrees with its model", "as good as its model"
    ]  # fmt: skip
    assert "accuracy" in figures["requirements"][-1]["found"] and "thread(s) of" in figures["requirements"][3]["found"]


def test_where_it_falls_short_is_said(made, capsys):
    assert check(made, "int8.tflite", "--fully_accelerated", "--max_bytes", "10") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "falls short" in shown and "SOFTMAX" in shown and "at most 10 bytes" in shown
    assert check(made, "int8.tflite", "--max_ms", "0.000001") == 1


def test_a_file_of_another_model_does_not_agree(made, tmp_path):
    other = keras.Sequential([keras.Input((6,)), L.Dense(3, kernel_initializer="zeros", bias_initializer="ones")])
    other.save(tmp_path / "other.keras")
    data = ["--data", f"{made / 'mine.py'}:load"]
    against = ["--agrees_with", str(tmp_path / "other.keras"), *data]
    assert check(made, "whole.tflite", *against) == 1
    assert check(made, "whole.tflite", *against, "--tolerance", "inf") == 0, "it is better"
    assert check(made, "whole.tflite", "--agrees_with", str(made / "model.keras"), *data, "--max_drop", "0.1") == 0
    model, x = keras.saving.load_model(tmp_path / "other.keras"), np.load(made / "data.npz")["x_test"]
    found = export.check_file(made / "whole.tflite", agrees_with=model, data=x)
    assert not found.passed and "relative error" in found.requirements[-1].found
    with pytest.raises(ValueError, match="there must be some that the labels measure"):
        export.check_file(made / "whole.tflite", agrees_with=model, data=x, tolerance=float("inf"))


def test_without_flags_it_must_run(made):
    assert check(made, "int8.tflite") == 0


@pytest.mark.parametrize(
    "words",
    [
        ["none.tflite"], ["model.keras"], ["data.npz", "--max_bytes", "5"], ["int8.tflite", "int8.tflite"],
        ["int8.tflite", "--agrees_with", "none.keras", "--data", "digits"], ["int8.tflite", "--data", "digits"],
        ["int8.tflite", "--shape", "2,two"], ["int8.tflite", "--max_ms", "-1"], ["int8.tflite", "--max_bytes", "0"],
    ],
)  # fmt: skip
def test_what_could_not_be_found_out_is_status_2(made, words, monkeypatch, capsys):
    monkeypatch.chdir(made)
    assert main.console(["check", *words]) == 2
    assert capsys.readouterr().err


def test_arguments_are_checked_before_anything_runs(made):
    data = {"data": np.zeros((2, 6))}
    numbers = ({"max_ms": float("nan")}, {"max_drop": -1.0}, {"max_drop": 0.1}, {"tolerance": 0.1}, {"max_bytes": 2.5})
    for wrong in (*numbers, data):
        with pytest.raises((ValueError, TypeError)):
            export.check_file(made / "int8.tflite", **wrong)


def test_numbers_are_compared_by_their_error(tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(1)])
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    export.export_tflite(model, tmp_path / "a.tflite", "float32")
    found = export.check_file(tmp_path / "a.tflite", agrees_with=model, data=x, max_drop=1e-3)
    assert found.passed and "relative error" in str(found)
    model.layers[-1].kernel.assign(2.0 * model.layers[-1].kernel)
    assert not export.check_file(tmp_path / "a.tflite", agrees_with=model, data=x).passed


def test_another_model_that_is_as_good_does_not_agree(made, tmp_path):
    """Labels say that a file is no worse; that it is another model's they do not."""
    model, stored = keras.saving.load_model(made / "model.keras"), np.load(made / "data.npz")
    twin = keras.models.clone_model(model)
    twin.set_weights([3.0 * weights for weights in model.get_weights()])
    export.export_tflite(twin, tmp_path / "twin.tflite")
    data = stored["x_test"], np.asarray(twin(stored["x_test"])).argmax(-1)
    same, good = export.check_file(tmp_path / "twin.tflite", agrees_with=model, data=data).requirements[1:]
    assert not same.passed and "(tolerance)" in same.wanted and "another class than the model for" in same.found
    assert good.passed and "(max_drop)" in good.wanted and good.found.startswith("accuracy 100.00%, of the model")


def own(y, p):
    return keras.ops.mean(keras.ops.log(keras.ops.cosh(y - p)), -1)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_of_numbers_that_are_three_times_too_large_falls_short(labelled, tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(2)])
    model.compile("sgd", own, metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    data = (x, np.asarray(model(x)) + 0.1) if labelled else x
    export.export_tflite(model, tmp_path / "good.tflite", "int8", x)
    assert export.check_file(tmp_path / "good.tflite", agrees_with=model, data=data).passed
    tripled = keras.Sequential([keras.Input((6,)), L.Dense(2)])
    tripled.set_weights([3.0 * weights for weights in model.get_weights()])
    export.export_tflite(tripled, tmp_path / "tripled.tflite")
    found = export.check_file(tmp_path / "tripled.tflite", agrees_with=model, data=data).requirements[1:]
    assert not any(item.passed for item in found) and len(found) == 1 + labelled
    assert not labelled or "mae" in found[-1].found


@pytest.mark.parametrize("compiled", [True, False])
def test_each_of_several_outputs_is_measured_by_its_labels(compiled, tmp_path):
    """Labels of several outputs were passed over, and the limit on accuracy was one on the relative error."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    model = keras.Model(x, {"same": L.Dense(1, name="s")(x), "digit": L.Dense(3, name="d")(x)})
    if compiled:
        categories = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        losses = {"same": keras.losses.BinaryCrossentropy(from_logits=True), "digit": categories}
        model.compile("sgd", losses, metrics={"same": ["binary_accuracy"], "digit": ["accuracy"]})
    examples = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    labels = {"same": np.arange(64)[:, None] % 2, "digit": np.asarray(model(examples)["digit"]).argmax(-1)}
    export.export_tflite(model, tmp_path / "a.tflite", "int8", examples)
    found = export.check_file(tmp_path / "a.tflite", agrees_with=model, data=(examples, labels), max_drop=0.05)
    assert found.passed and "digit_accuracy" in found.requirements[-1].found
    assert f"same_{'binary_' if compiled else ''}accuracy at most 0.05 worse" in found.requirements[-1].wanted
    assert not export.check_file(
        tmp_path / "a.tflite", agrees_with=model, data=(examples, labels), max_drop=0.05, tolerance=1e-6
    ).passed


@keras.saving.register_keras_serializable("gate")
def near(y, p):
    """A metric whose name does not say which way is better."""
    return keras.ops.cast(keras.ops.abs(y - p) < 0.1, "float32")


@pytest.fixture(scope="module")
def half_destroyed(tmp_path_factory):
    """Outputs of a model whose file has the one whole and the other destroyed: `(layers by name, path, data)`."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    model = keras.Model(x, {"light": L.Dense(1, name="light")(x), "kind": L.Dense(3, name="kind")(x)})
    examples = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    outputs = {name: np.asarray(output) for name, output in model(examples).items()}
    weights = model.get_layer("light").get_weights()
    model.get_layer("light").set_weights([array + 5.0 for array in weights])
    path = tmp_path_factory.mktemp("half") / "a.tflite"
    export.export_tflite(model, path)
    model.get_layer("light").set_weights(weights)
    return model, path, (examples, {"light": outputs["light"] + 0.05, "kind": outputs["kind"].argmax(-1)})


_CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_UNJUDGED = "not judged, since nobody said which way is better (mode): light_near"


@pytest.mark.parametrize(
    "losses, metrics, mode, judged, unjudged",
    [
        ({"light": own, "kind": _CLASSES}, {"light": [near], "kind": ["accuracy"]}, None, "light_loss", True),
        ({"light": own, "kind": _CLASSES}, {"light": [near], "kind": ["accuracy"]}, "max", "light_near", False),
        ({"light": own, "kind": _CLASSES}, {"light": [near, "mae"], "kind": ["accuracy"]}, None, "light_mae", True),
        ({"light": own, "kind": _CLASSES}, {"kind": ["accuracy"]}, None, "light_loss", False),
        ({"light": own, "kind": _CLASSES}, {"light": ["mae"]}, None, "light_mae", False),
        ({"light": own, "kind": _CLASSES}, None, None, "light_loss", False),
    ],
)
def test_each_output_is_judged_where_metrics_are_the_only_test(half_destroyed, losses, metrics, mode, judged, unjudged):
    """A metric without a known direction was dropped without a word, and a loss where another output had a metric."""
    model, path, data = half_destroyed
    model.compile("sgd", losses, metrics=metrics)
    found = export.check_file(path, agrees_with=model, data=data, tolerance=np.inf, max_drop=0.01, mode=mode)
    good = found.requirements[-1]
    assert not found.passed and f"{judged} at most 0.01 of it worse" in good.wanted and "kind_accuracy at most" in good.wanted
    assert (_UNJUDGED in good.found) == unjudged


def test_an_output_that_nothing_judges_is_refused_and_the_metric_named(half_destroyed):
    model, path, data = half_destroyed
    model.compile("sgd", {"light": None, "kind": _CLASSES}, metrics={"light": [near], "kind": ["accuracy"]})
    says = r"outputs=\['light'\], metrics=\['light_near'\]. Pass mode=\"max\" .*`--mode`.* finite"
    with pytest.raises(ValueError, match=says):
        export.check_file(path, agrees_with=model, data=data, tolerance=np.inf)
    assert _UNJUDGED in export.check_file(path, agrees_with=model, data=data).requirements[-1].found, "outputs differ anyway"
    with pytest.raises(ValueError, match="Received: mode='up'"):
        export.check_file(path, agrees_with=model, data=data, mode="up")


def test_a_file_that_was_cut_off_is_named(made, tmp_path, capsys):
    (tmp_path / "cut.tflite").write_bytes((made / "int8.tflite").read_bytes()[:900])
    assert check(tmp_path, "cut.tflite") == 2
    assert str(tmp_path / "cut.tflite") in "".join(capsys.readouterr().err.split("\n"))


def two_by_two(names, units=(2, 2), widths=(3, 3), as_dict=False, turned=False):
    """A net with two inputs and two outputs of these names; its weights are the same each time."""
    inputs = [keras.Input((width,), name=name) for width, name in zip(widths, names)]
    hidden = [L.Dense(4, name=f"h{number}")(x) for number, x in enumerate(inputs)]
    hidden = L.Concatenate(name="joined")([hidden[0], L.ReLU(name="cut")(hidden[1])])
    outputs = [L.Dense(num, name=name)(hidden) for num, name in zip(units, names[2:])]
    outputs = outputs[::-1] if turned else outputs
    model = keras.Model(inputs, {layer: x for layer, x in zip(names[2:], outputs)} if as_dict else outputs)
    rng = np.random.default_rng(0)
    for layer in (model.get_layer(name) for name in ("h0", "h1", *names[2:])):
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


def file_of(model, folder):
    (folder / "a.tflite").write_bytes(conversion.convert(model, "float32", samples.input_specs(model)))
    return folder / "a.tflite"


FIRST = ("keras_tensor", "keras_tensor_1", "dense", "dense_1")
NINTH = ("keras_tensor_9", "keras_tensor_10", "dense_9", "dense_10")
UNLIKE = {"units": (2, 3), "widths": (3, 4)}


@pytest.mark.parametrize(
    "names, others, kind",
    [
        (NINTH, FIRST, {}),
        (FIRST, NINTH, {}),
        (NINTH, FIRST, {"as_dict": True}),
        (NINTH, FIRST, {"turned": True}),
        (("z", "a", "y", "b"), ("z", "a", "y", "b"), {}),
        (("z", "a", "y", "b"), ("left", "right", "kind", "size"), UNLIKE),
        (("z", "a", "y", "b"), FIRST, UNLIKE),
    ],
)
def test_what_is_called_otherwise_is_compared_with_its_twin(names, others, kind, tmp_path):
    """By the alphabet, `dense_10` before `dense_9`, a file of the same weights had failed."""
    model, other = two_by_two(names, **kind), two_by_two(others, **kind)
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(16, x.shape[-1])).astype("float32") for x in other.inputs]
    outputs = [keras.tree.flatten(net(data)) for net in (model, other)]  # of a dict by the alphabet
    assert {np.asarray(array).tobytes() for array in outputs[0]} == {np.asarray(array).tobytes() for array in outputs[1]}
    path = file_of(model, tmp_path)
    found = export.check_file(path, agrees_with=other, data=data)
    assert found.passed and "relative error" in found.requirements[-1].found
    assert export.explain(other, path, data).error < 1e-5
    moved = keras.models.clone_model(other)
    moved.set_weights([weight + 0.5 for weight in other.get_weights()])
    assert not export.check_file(path, agrees_with=moved, data=data).passed


def test_what_nothing_tells_apart_is_refused(tmp_path):
    path = file_of(two_by_two(("z", "a", "y", "b")), tmp_path)
    data = [np.ones((4, 3), "float32")] * 2
    for names, what in ((FIRST, "inputs"), (("z", "a", "dense", "dense_1"), "outputs")):
        says = f"have the model's {what}: names, .* Received: file=.*, model=.*name its {what} as the file does"
        with pytest.raises(ValueError, match=says):
            export.check_file(path, agrees_with=two_by_two(names), data=data)
        with pytest.raises(ValueError, match=says):
            export.explain(two_by_two(names), path, data)


def detail(*shape, dtype=np.float32, scale=0.0):
    return {"shape": np.array(shape), "shape_signature": np.array(shape), "dtype": dtype, "quantization": (scale, 0)}


def ends_of(*names, size=2):
    return {name: (1, size) for name in names}


TEN_AND_MORE = [f"output_{number}" for number in range(12)]


@pytest.mark.parametrize(
    "file, model, order",
    [
        (ends_of(*sorted(TEN_AND_MORE)), ends_of(*"lkjihgfedcba"), TEN_AND_MORE),
        (ends_of("Identity_1", "Identity"), ends_of("z", "a"), ["Identity", "Identity_1"]),
        (ends_of("args_0", "args_0_1"), ends_of("z", "a"), ["args_0", "args_0_1"]),
        (ends_of(*(f"serving_default_{end}:0" for end in "az")), ends_of(*"za"), [f"serving_default_{end}:0" for end in "za"]),
        (ends_of("dense_10", "dense_8", "dense_9"), ends_of("dense_2", "dense", "dense_1"), ["dense_10", "dense_8", "dense_9"]),
        (ends_of("dense_1", "dense_2"), ends_of("dense", "dense_1"), ["dense_1", "dense_2"]),
        (ends_of("dense_3", "head_2"), ends_of("head", "dense_1"), ["head_2", "dense_3"]),
        # One layer called twice, and inputs without names, whose model was loaded.
        (ends_of("dense_1", "dense_1_", "x_4"), ends_of("dense_4", "x", "dense_4_"), ["dense_1", "x_4", "dense_1_"]),
        (
            ends_of("keras_tensor_12", "keras_tensor_3"), ends_of("input_layer_1", "input_layer"),
            ["keras_tensor_12", "keras_tensor_3"],
        ),
        ({"a": (1, 2), "z": (1, 3), "y": (1, 4)}, {"p": (8, 4), "q": (8, 2), "r": (8, 3)}, ["y", "a", "z"]),
        ({"a": (1, -1), "z": (1, 3)}, {"p": (8, 3), "q": (8, 5)}, ["z", "a"]),
        (
            {"x": (1, 3), **ends_of("dense_10", "dense_9")}, {**ends_of("dense_1", "dense"), "p": (1, 3)},
            ["dense_10", "dense_9", "x"],
        ),
        ({"dense_9": (1, 2), "dense_10": (1, 3)}, {"dense": (1, 3), "dense_1": (1, 2)}, ["dense_10", "dense_9"]),
        (ends_of("a", "z"), ends_of("p", "q"), None),
        (ends_of("dense_9", "dense_10"), ends_of("p", "q"), None),
        (ends_of("output_1", "output_2"), ends_of("p", "q"), None),
        (ends_of("StatefulPartitionedCall:0", "StatefulPartitionedCall:1"), ends_of("p", "q"), None),
        ({"a": (1, 2), "z": (1, 3)}, {"p": (1, 4), "q": (1, 2)}, None),
        (ends_of("a", "b"), ends_of("p"), None),
    ],
)  # fmt: skip
def test_inputs_and_outputs_of_a_file_are_told_or_refused(file, model, order):
    details = {name: detail(*shape) for name, shape in file.items()}
    wanted = [ends.End(name, shape, "float32") for name, shape in model.items()]
    if order is not None:
        assert ends.matched(wanted, details, "outputs") == order
        return
    with pytest.raises(ValueError, match="must have the model's outputs.*Received: file=.*Pass the model"):
        ends.matched(wanted, details, "outputs")


def test_types_tell_ends_apart():
    details = {"a": detail(1, 2, dtype=np.int8, scale=0.1), "b": detail(1, 2, dtype=np.int32)}
    wanted = [ends.End("p", (1, 2), "int64"), ends.End("q", (1, 2), "float32")]
    assert ends.matched(wanted, details, "inputs") == ["b", "a"]


def test_a_file_lists_counted_names_by_their_numbers(tmp_path):
    runner = export.Runner(file_of(two_by_two(NINTH), tmp_path))
    assert (*runner.inputs, *runner.outputs) == NINTH


def offset_net(slope, offset=20.0):
    """Numbers around an offset, as of a temperature or a price."""
    model = keras.Sequential([keras.Input((6,)), L.Dense(1, name="price")])
    model.set_weights([np.full((6, 1), slope), np.full(1, offset)])
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module")
def around_twenty(tmp_path_factory):
    """A model of numbers around 20, its file, one that answers 20 to everything, and labelled examples."""
    folder, x = tmp_path_factory.mktemp("offset"), np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model, paths = offset_net(0.2), {}
    for name, slope in (("good", 0.2), ("constant", 1e-7)):
        (folder / name).mkdir()
        paths[name] = file_of(offset_net(slope), folder / name)
    return model, paths, (x, np.asarray(model(x)) + 0.01)


@pytest.mark.parametrize("loss", ["mse", own])
@pytest.mark.parametrize("options", [{}, {"max_drop": 0.05}, {"tolerance": np.inf}])
def test_a_loss_judges_where_no_metric_does(around_twenty, loss, options):
    """A file that answers the same to every example had passed: labels said nothing, and its relative error was 2 %."""
    model, paths, data = around_twenty
    model.compile("sgd", loss)
    good = export.check_file(paths["good"], agrees_with=model, data=data, **options)
    options |= {} if "tolerance" in options else {"tolerance": 0.25}
    constant = export.check_file(paths["constant"], agrees_with=model, data=data, **options)
    assert good.passed and good.doubts == () and not constant.passed
    judged = constant.requirements[-1]
    assert constant.requirements[-2].passed and not judged.passed, "it is the loss that tells"
    assert "of what it gains over constant outputs (max_drop)" in judged.wanted and "of constant outputs 0." in judged.found


def test_metrics_come_before_the_loss(around_twenty):
    model, paths, data = around_twenty
    model.compile("sgd", "mse", metrics=["mae"])
    (judged,) = export.check_file(paths["good"], agrees_with=model, data=data).requirements[2:]
    assert "mae" in judged.wanted and "loss" not in judged.wanted


@pytest.mark.parametrize(
    "before, after, constant, max_drop, passes",
    [
        (1e-4, 2e-3, 0.25, None, True),  # twenty times as much, and yet nothing of what was learned
        (1e-4, 6e-3, 0.25, None, False),
        (0.20, 0.215, 0.25, None, True),  # 0.1 of the loss
        (0.20, 0.225, 0.25, None, False),
        (0.20, 0.19, 0.25, 0.0, True),
        (0.20, 0.20, 0.25, 0.0, True),
        (0.20, 0.21, 0.25, 0.0, False),
        (0.20, 0.25, 0.20, None, False),  # the model is no better than constant outputs
        (0.20, 0.25, np.nan, None, False),
        (0.20, np.nan, 0.25, None, False),
        (1e-4, 2e-3, None, None, False),  # a metric
    ],
)
def test_a_loss_may_rise_by_a_part_of_what_it_gains(before, after, constant, max_drop, passes):
    figure = Figure("loss", 0, "min", False, before, after, constant)
    assert figure.passes(max_drop) == passes
    assert ("constant outputs" in figure.wanted(max_drop)) == ("constant outputs" in str(figure)) == (constant is not None)


def test_outputs_that_hardly_vary_are_doubted_where_there_are_no_labels(around_twenty, caplog):
    model, paths, (x, _) = around_twenty
    found = export.check_file(paths["constant"], agrees_with=model, data=x, tolerance=0.25)
    (doubt,) = found.doubts
    assert found.passed and "price answers almost the same to every example" in doubt and doubt in caplog.text
    assert "worth a look" in str(found) and found.to_dict()["doubts"] == (doubt,)
    assert export.check_file(paths["good"], agrees_with=model, data=x).doubts == ()


class Measuring(keras.Model):
    """Measures in its own way."""

    def test_step(self, data):
        return {"own": 0.0}


@pytest.fixture(scope="module")
def scores_and_boxes(tmp_path_factory):
    """A model of two outputs, its file, and labels that its boxes are off from."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, {"boxes": L.Dense(2, name="boxes")(inputs), "scores": L.Dense(3, name="scores")(inputs)})
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    path = tmp_path_factory.mktemp("boxes") / "model.tflite"
    export.export_tflite(model, path)
    outputs = {name: np.asarray(values) for name, values in model(x).items()}
    return model, path, x, {"scores": outputs["scores"].argmax(-1), "boxes": outputs["boxes"] + 0.5}


@pytest.mark.parametrize(
    "kind, losses, reason",
    [
        (keras.Model, None, "the model is not compiled"), (keras.Model, {"boxes": "mse"}, None),
        (keras.Model, {"scores": CATEGORIES}, "the model is compiled without a loss or a metric of it"),
        (Measuring, {"boxes": "mse"}, "Measuring measures in its own way"),
    ],
)  # fmt: skip
def test_an_output_that_labels_do_not_judge_is_named_with_the_reason(scores_and_boxes, kind, losses, reason):
    """Without its compile, as a file of a run's stage has none, boxes were neither judged nor named, and the file passed."""
    made, path, x, labels = scores_and_boxes
    model = kind(made.inputs, made.output)
    if losses is not None:
        model.compile("sgd", losses)
    found = export.check_file(path, agrees_with=model, data=(x, labels))
    *_, agrees, good = found.requirements
    assert found.passed and "scores_accuracy 100.00%" in good.found and ("boxes_loss" in good.found) == (reason is None)
    assert good.found.endswith(", on 64 examples" + ("" if reason is None else f"; not judged, since {reason}: boxes"))
    fix = "Compile the model with a loss or a metric of it."
    said = f"The output boxes is only compared with the model's, its labels judge nothing: {reason}. {fix}"
    assert found.doubts == (() if reason is None else (said,))
    assert not export.check_file(path, agrees_with=model, data=(x, {"scores": labels["scores"]})).doubts
