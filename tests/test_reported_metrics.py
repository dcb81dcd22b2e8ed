"""Figures of any task in words: which way is better, whether a change can be measured, what is warned of."""

import io

import keras
import numpy as np
import pytest
from rich.console import Console

import tf_reweight as tfr
from tests.test_page import file, whole
from tf_reweight.export.classes import kinds_of_model
from tf_reweight.graph import better, compiled
from tf_reweight.reports import alarms, charts, metrics, page, tables
from tf_reweight.workflow import scoring
from tf_reweight.workflow.task import Task

ACCURACY = {"name": "accuracy", "mode": "max", "proportion": True}
ERROR = {"name": "mae", "mode": "min", "proportion": False}
OWN = {"name": "own", "mode": None, "proportion": False}


@pytest.mark.parametrize(
    "metric, before, after, num, words",
    [
        (ACCURACY, 0.9248, 0.9304, 359, "no measurable difference"),  # two of 359
        (ACCURACY, 0.90, 0.93, 3590, "+3.00 points"),
        (ACCURACY, 0.93, 0.90, 3590, "-3.00 points"),
        (ACCURACY, 1.0, 1.0, 10, "no measurable difference"),
        (ACCURACY, 1.0, 0.0, 64, "-100.00 points"),
        (ERROR, 0.5, 0.4, 100, "20.0% lower (better)"),
        (ERROR, 0.4, 0.5, 100, "25.0% higher (worse)"),
        (ERROR, 0.0, 0.5, 100, "0 to 0.5 (worse)"),
        (OWN, 2.0, 1.0, 100, "50.0% lower"),
        (ERROR, 0.123456, 0.123457, 100, "no measurable difference"),
        (ERROR, 0.5, 0.511, 100, "2.2% higher (worse)"),
        (OWN, -2.0, -2.03, 100, "no measurable difference"),
        (ERROR, None, 0.5, 100, "not measured"),
    ],
)
def test_a_change_in_words(metric, before, after, num, words):
    assert metrics.change_of(metric, before, after, num) == words


def test_the_interval_is_wilsons():
    """Against the roots of the quadratic that defines it: |p - q| = 1.96 sqrt(q (1 - q) / n)."""
    for share, num in ((0.5, 100), (0.97, 359), (1.0, 20), (0.0, 20)):
        z = 1.96
        roots = np.roots([1 + z**2 / num, -(2 * share + z**2 / num), share**2])
        assert metrics.interval(ACCURACY, share, num) == pytest.approx(abs(roots[0] - roots[1]) / 2, abs=1e-9)
    assert metrics.interval(ERROR, 0.5, 100) is None


def regression_run(after=0.5, **changes):
    """The figures of a run whose head is an error, with two outputs."""
    files = []
    for name, size, error in (("dense_float32", 4000, 0.5), ("dense_int8", 1500, 0.51), ("shrunk_int8", 1000, after)):
        outputs = [
            {"name": "place", "kind": "numbers", "agreement": None, "error": 0.01},
            {"name": "kind", "kind": "classes", "agreement": 0.99, "error": 0.01},
        ]
        files.append({**file(f"{name}.tflite", size), "test": {"mae": error, "loss": 1.0, "hits": 0.9}, "outputs": outputs})
        del files[-1]["test_accuracy"]
    stages = [
        {
            "name": name, "validation": {"mae": 0.5}, "test": {"mae": 0.5, "loss": 1.0, "hits": 0.9}, "num_nonzero": 72,
            "num_weights": 72, "num_parameters": 83, "num_macs": macs, "seconds": 1.0, "keeps_zeros": name != "dense",
        }
        for name, macs in (("dense", 100), ("shrunk", 50))
    ]  # fmt: skip
    hits = {"name": "hits", "mode": "max", "proportion": True}
    data = {"name": "arrays", "num_train": 90, "num_validation": 30, "num_test": 40, "has_test": True}
    figures = whole(
        files=files, stages=stages, data=data, metrics=[ERROR, {**ERROR, "name": "loss"}, hits], guess={"mae": 2.0},
        config={"name": "run", "seed": 0, "prune": {"budget": {"macs": 0.5}}}, **changes,
    )  # fmt: skip
    return {**figures, "alarms": alarms.alarms_of(figures)}


def seen(figures):
    return [(alarm["level"], alarm["seen"]) for alarm in alarms.alarms_of(figures)]


def test_a_good_run_raises_no_alarm_and_is_compared_with_dense_int8():
    figures = regression_run()
    assert figures["alarms"] == []
    summary = figures["summary"]
    assert (summary["before"], summary["after"], summary["change"]) == (0.5, 0.5, "no measurable difference")
    assert "accuracy_before" not in summary
    assert summary["int8"] == {"download": pytest.approx(1.5), "size": 1.5, "speed": pytest.approx(1.5)}


def test_what_is_wrong_is_told_the_worst_first():
    worse = regression_run(after=0.7)
    assert seen(worse) == [("red", "mae went from 0.5 to 0.7.")]
    assert seen(regression_run(after=0.55)) == [("amber", "mae went from 0.5 to 0.55.")]
    guessing = {**worse, "guess": {"mae": 0.6}}
    assert seen(guessing)[0] == ("red", "shrunk_int8.tflite is no better than one constant answer: mae 0.7 to 0.6.")
    missed = regression_run()
    missed["stages"][-1]["num_macs"] = 80
    assert seen(missed) == [("amber", "20% of the computing went, 50% were asked for.")]
    for share, level in ((0.94, "amber"), (0.5, "red")):
        apart = regression_run()
        apart["files"][-1]["outputs"][1]["agreement"] = share
        assert seen(apart) == [(level, f"shrunk_int8.tflite agrees with its Keras model in {share:.1%} of kind.")]
    slow = regression_run()
    slow["files"][-1] |= {"latency_ms": 3.0, "latency_low_ms": 2.9, "latency_high_ms": 3.1}
    assert seen(slow) == [("amber", "shrunk_int8.tflite is slower than dense_int8.tflite: 3.000 to 1.500 ms.")]
    slow["files"][0]["latency_ms"] = slow["files"][0]["latency_high_ms"] = 2.0
    slower = "shrunk_int8.tflite is slower than dense_float32.tflite: 3.000 to 2.000 ms."
    assert ("amber", slower) in seen(slow)  # the user's page had promised it
    lagging = regression_run()
    lagging["stages"][0] |= {"validation": {"mae": 0.9}, "refreshed_validation": {"mae": 0.5}}
    (alarm,) = alarms.alarms_of(lagging)
    assert "statistics of weights of long ago: mae is 0.9 on validation examples, 0.5 with" in alarm["seen"]
    assert alarm["level"] == "red" and "refresh_statistics" in alarm["look"]
    otherwise = regression_run()
    otherwise["stages"][0]["test"]["mae"] = 0.2
    assert seen(otherwise)[0][1].startswith("mae of the dense model is 0.2 in Keras and 0.5 as a file: files are measured by")
    refused = {**regression_run(), "refused": [{"name": "a.tflite", "reason": "why"}]}
    assert seen(refused)[0][0] == "red" and "a.tflite was not kept" in seen(refused)[0][1]
    too_small = "`max_bytes` must be at least 1,936. Received: max_bytes=10. Allow more."
    refused["refused"] = [{"name": "a.tflite", "kind": "DoesNotFit", "reason": too_small}]
    (alarm,) = (alarm for alarm in alarms.alarms_of(refused) if "a.tflite" in alarm["seen"])
    assert alarm["seen"] == "a.tflite was not written: `max_bytes` must be at least 1,936." and "mixed_bytes" in alarm["look"]


def test_a_difference_of_less_than_a_fiftieth_is_none_anywhere_in_a_report():
    """`0.0% higher (worse)` had been said, and an alarm of two numbers that look the same."""
    little = regression_run(after=0.500001, one_shot={"validation": {"mae": 0.499999}, "num_macs": 50})
    little["summary"] = tables.summary(little)
    assert (little["alarms"], little["summary"]["measurable"]) == ([], False)
    assert "no measurable difference" in page.render(little) and "(worse)" not in page.render(little)
    hardly = "The dense model is hardly better than one constant answer: mae 0.5 to 0.505."
    assert seen({**little, "guess": {"mae": 0.505}}) == [("red", hardly)]


def test_a_file_that_loses_against_another_of_the_run_is_named():
    figures = regression_run()
    for dense in figures["files"][:-1]:
        dense["validation"] = {"mae": 0.1}  # dense files are not what the others are compared with
    another = {**figures["files"][-1], "name": "shrunk_float32.tflite", "validation": {"mae": 0.42}}
    figures["files"][-1]["validation"] = {"mae": 1.7}
    figures["files"].insert(-1, another)
    said = "loses against the most accurate of the run's files: mae 1.7 to 0.42 on validation examples."
    assert seen(figures) == [("amber", f"shrunk_int8.tflite {said}")]
    for quantized, help_is in ((None, "learn the rounding with `quantize`"), ({"layers": 3}, "train `quantize` longer")):
        (alarm,) = alarms.alarms_of({**figures, "quantized": quantized})
        assert help_is in alarm["look"]  # and never the stage that the run has had
    for precision in ("float32", "float16"):
        *others, last = figures["files"]
        (alarm,) = alarms.alarms_of({**figures, "files": [*others, {**last, "precision": precision}]})
        assert alarm["look"] == "It has the weights of its model: retrain longer."  # there is no rounding to learn
    figures["files"][-1]["validation"] = {"mae": 0.425}
    assert seen(figures) == []


def test_a_shipped_file_in_floats_is_not_told_to_learn_its_rounding():
    ways_of = {"int8": "Ask for less, retrain longer, or learn the rounding", "float32": "Ask for less, or retrain longer;"}
    for precision, ways in ways_of.items():
        figures = regression_run(after=0.9)
        figures["files"][-1]["precision"] = precision
        assert ways in [alarm for alarm in alarms.alarms_of(figures) if "went from" in alarm["seen"]][0]["look"]


def test_better_than_guessing_and_not_measurably_so_is_said_as_such():
    figures = regression_run()
    figures["metrics"] = [{"name": "hits", "mode": "max", "proportion": True}]
    few = {**figures, "guess": {"hits": 0.85}}
    said = "The dense model is not measurably better than one constant answer on 40 examples: hits 90.00% to 85.00%."
    assert seen(few) == [("red", said)]
    assert seen({**figures, "guess": {"hits": 0.5}}) == []


def test_the_page_shows_every_metric_and_the_alarms():
    text = page.render(regression_run(after=0.7))
    for words in (
        "Mae at every stage", "Lower is better.", "Every metric", "hits", "Against the dense int8 model", "alarm red",
        "mae went from 0.5 to 0.7.", "kind 99.00%, place 1.0e-02 off", "40.0% higher (worse)",
    ):  # fmt: skip
        assert words in text, words


def test_a_metric_whose_direction_nobody_knows_is_shown_and_said():
    """The loss heads then; without the table the user's own metric would be nowhere in the report."""
    loss = {"name": "loss", "mode": "min", "proportion": False}
    given = [scoring.Metric(**loss, is_loss=True), scoring.Metric("hit", None, True)]
    with pytest.warns(UserWarning, match="`loss` decides and heads the report.*'hit'.*monitor=\"hit\" and mode"):
        found = scoring.in_order(given, None, None)
    assert [metric["name"] for metric in found] == ["loss", "hit"]
    for mode in ("max", "min"):  # "max" turned the loss, of which more was better then
        with pytest.raises(ValueError, match=f"of 'loss', which decides.*Received: mode='{mode}'. Pass monitor=\"hit\""):
            scoring.in_order(given, None, mode)
        assert scoring.in_order(given, "hit", mode)[0] == {"name": "hit", "mode": mode, "proportion": True}
    assert scoring.in_order(given, "loss", "min")[0] == loss
    figures = regression_run()
    figures["metrics"] = [loss, {"name": "hits", "mode": None, "proportion": True}]
    assert "Every metric" in page.render(figures) and "90.00%" in page.render(figures)
    console = Console(file=io.StringIO(), width=200)
    console.print(*tables._metric_tables(figures))
    assert "Every metric, test examples" in console.file.getvalue()
    figures["metrics"] = [ERROR, loss]
    assert "Every metric" not in page.render(figures)


def test_what_a_model_computes_is_a_dash_where_it_is_not_known():
    figures = regression_run()
    for stage in figures["stages"]:
        stage["num_macs"] = None
    assert ">None<" not in page.render(figures)
    console = Console(file=io.StringIO(), width=200)
    console.print(tables._stage_table(figures))
    assert [line.split()[-1] for line in console.file.getvalue().splitlines() if line.split()[:1] == ["dense"]] == ["-"]


def test_a_stage_that_left_nothing_has_a_row():
    figures = regression_run()
    figures["stages"][-1] |= {"num_nonzero": 0, "keeps_zeros": True}
    figures["summary"] = tables.summary(figures)
    console = Console(file=io.StringIO(), width=200)
    console.print(tables._stage_table(figures))
    assert figures["stages"][-1]["name"] in console.file.getvalue() and page.render(figures)


def test_a_page_of_files_that_only_their_class_can_measure():
    """A `test_step` of the user's own measures models, and no file."""
    figures = regression_run()
    for each in figures["files"]:
        each["test"] = {}
    figures["summary"] = tables.summary(figures)
    assert figures["summary"]["change"] == "not measured"
    assert "only the model&#39;s class can measure it" in page.render(figures)


@pytest.mark.parametrize("best_by, by", [("size", "size"), ("speed", "speed"), ("accuracy", "size")])
def test_a_file_that_was_chosen_unmeasured_is_an_alarm(best_by, by):
    """The run ended as if all was well, with the smallest file of a model whose class alone can measure it."""
    figures = regression_run()
    assert figures["alarms"] == []
    figures["config"]["export"] = {"best_by": best_by}
    for each in figures["files"]:
        each["test"] = {}
    (alarm,) = alarms.alarms_of(figures)
    assert alarm["level"] == "amber" and alarm["seen"].startswith("mae of files cannot be measured: the model's class")
    shipped = f"shrunk_int8.tflite was chosen by its {by} alone, of 1 file; its outputs differ from its Keras model's by"
    assert alarm["seen"].endswith(f"{shipped} a relative error of at most 1.00e-02.")
    assert "Compile the model with losses or metrics on its outputs" in alarm["look"]


@pytest.mark.parametrize("values", [(0.5, 0.7), (0.001, 0.00102), (1e4, 3e5), (-2.0, -0.3), (0.3, 0.3), (0.0, 0.0)])
def test_the_axis_of_any_figure_holds_every_dot(values):
    drawn = charts.accuracy(
        {"metrics": [ERROR], "stages": [], "files": [{"name": f"{v}.tflite", "test": {"mae": v}} for v in values]}
    )
    assert all(-1e-6 <= row["test_at"] <= 100 + 1e-6 for row in drawn["rows"]) and 2 <= len(drawn["ticks"]) <= 9


def test_the_last_table_fits_a_terminal_of_80_columns():
    figures = regression_run()
    figures["files"][-1] |= {"name": "clustered_int8_packed_with_a_very_long_name.tflite", "num_bytes": 123_456_789}
    table = tables._file_table(figures)
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80 and any("123,456,789" in line for line in lines)


@pytest.mark.filterwarnings("ignore:Only 1 training steps")
def test_a_metric_with_a_value_for_each_class_counts_by_their_mean(tmp_path):
    """Keras trains with it; the run ended in NumPy's words about arrays and scalars."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).random((96, 8, 8, 1)).astype("float32")
    y = np.eye(2, dtype="float32")[(x.mean((1, 2, 3)) > 0.5).astype(int)]
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    model.fit(x, y, verbose=0)
    expected = float(np.mean(model.evaluate(x, y, verbose=0, return_dict=True)["f1_score"]))
    told = tfr.compress(
        model, (x, y), validation=(x, y), epochs=3, budget="macs=0.5", out=tmp_path / "run", console=Console(file=io.StringIO())
    )
    assert told.report["summary"]["before"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("max", "acc accuracy acc5 top_5_accuracy MeanIoU mean_iou auc_1 f1 F1Score f_score r2 r2_score psnr ssim kind_auroc"),
        ("min", "mse mae_px RMSE dice_loss top5_error balanced_error log_cosh false_positives dssim dissimilarity inaccuracy"),
        (None, "hits sensor2 accel occupancy accuracy_gap neg_mean_squared_error distance_within_half recall_minus_loss map"),
        (None, "accuracy_at_distance gloss lossless minimap accelerated"),
    ],
)
def test_words_of_a_name_count_whole_and_only_where_they_agree(mode, names):
    assert {name: better.mode_of(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


def test_the_name_of_an_output_says_nothing_of_its_metrics():
    """Keras puts it before theirs: `distance_right` was an error by it, and a gate passed a file that had lost all of it."""

    def right(y, outputs):
        return keras.ops.mean(keras.ops.cast(keras.ops.abs(y - outputs) < 0.5, "float32"), axis=-1)

    class Own(keras.losses.Loss):
        def call(self, y, outputs):
            return keras.ops.mean(keras.ops.abs(y - outputs), axis=-1)

    x = keras.Input((3,))
    model = keras.Model(x, {name: keras.layers.Dense(1, name=name)(x) for name in ("distance", "acc", "weight_loss")})
    metrics = {"distance": [right, keras.losses.cosine_similarity], "acc": [right, Own(name="score")], "weight_loss": ["mae"]}
    model.compile("sgd", "mse", metrics=metrics)
    given = np.ones((8, 3), "float32"), {name: np.ones((8, 1), "float32") for name in model.output_names}
    model.evaluate(*given, verbose=0)
    assert {item.name: item.mode for item in compiled.measured_by(model)} == {
        "distance_right": None, "distance_cosine_similarity": "min", "acc_right": None, "acc_score": "min",
        "weight_loss_mae": "min",
    }  # fmt: skip
    task = Task(**{name: compiled.compiled_with(model)[name] for name in ("loss", "metrics")})
    scorer = scoring.Scorer(task, model, given[0])
    scorer.begin((*given, None))
    losses = {metric.name for metric in scorer.metrics if metric.is_loss}
    assert losses == {"loss", "distance_loss", "acc_loss", "weight_loss_loss"}
    assert scoring.in_order(scorer.metrics, "weight_loss_mae", None)[0]["mode"] == "min"


class Encoder(keras.Model):
    """Is compiled with an optimizer alone, and trains and measures by itself."""

    def train_step(self, data):
        return {}

    def test_step(self, data):
        x, _ = data
        return {"error": keras.ops.mean(self(x, training=False)["a"])}


NOTED = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


@pytest.mark.parametrize(
    "labels, expected",
    [
        (NOTED, ["numbers", "numbers"]), ({"a": NOTED}, ["numbers", "numbers"]), (None, ["numbers", "numbers"]),
        ({"a": np.arange(8) % 4}, ["classes", "numbers"]), ({"other": np.arange(8) % 4, "more": NOTED}, ["classes", "numbers"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("own_compile", [False, True])
def test_outputs_of_a_class_that_trains_by_itself_choose_only_where_its_labels_are_classes(labels, expected, own_compile):
    """An autoencoder's numbers were taken for classes by their shape, and an alarm said that its file chooses others."""
    inputs = keras.Input((4,))
    kind = type("Encoder", (Encoder,), {"compile": lambda self, rate: keras.Model.compile(self, "adam")} if own_compile else {})
    outputs = {"a": keras.layers.Dense(4, name="a")(inputs), "b": keras.layers.Dense(3, name="b")(inputs)}
    model = kind(inputs, outputs)
    model.compile(*[1e-3] if own_compile else ["adam"])
    scorer = scoring.Scorer(Task(by_class=model), model, NOTED)
    assert scorer.by_class
    assert scorer._kinds_of(labels) == expected
    found = kinds_of_model(model, [np.asarray(output) for output in keras.tree.flatten(scorer.outputs)])
    assert found == ["numbers"] * 2
