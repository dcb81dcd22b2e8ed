"""The page stands alone and says what the report says; the norms it draws are those of the kernels."""

import base64
import html.parser
import json
import re

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight.reports import charts, page, pictures
from tf_reweight.reports.curves import EDGES, Curves, NormSummaries, read_curves
from tf_reweight.strict_json import to_json
from tf_reweight.tfmot.callbacks import PruningSummaries

L = keras.layers


def small():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu", name="hidden"), L.Dense(3, name="out")])


def stage(name, accuracy, nonzero):
    return {
        "name": name, "validation_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "num_nonzero": nonzero,
        "num_weights": 72,
        "num_parameters": 83, "num_macs": 72, "seconds": 1.5, "keeps_zeros": name == "pruned",
    }  # fmt: skip


def file(name, size):
    return {
        "name": name, "precision": "int8", "test_accuracy": 0.9, "top1_agreement": 1.0, "num_bytes": size,
        "gzip_bytes": size // 2, "apk_bytes": size + 117,
        "sparsity": 0.5, "num_ops": 4, "float_ops": [], "relative_error": 0.01, "latency_ms": size / 1000,
        "latency_low_ms": size / 1100, "latency_high_ms": size / 900, "speedup": 4000 / size,
    }  # fmt: skip


def epoch(stage, number, **more):
    return {
        "stage": stage, "epoch": number, "accuracy": 0.8, "val_accuracy": 0.7, "learning_rate": 1e-3, "num_weights": 72,
        "num_nonzero": 72, **more,
    }  # fmt: skip


def whole(**changes):
    figures = {
        "name": "<script>run</script>",
        "command": "tf-reweight compress --config a.yaml",
        "config": {"name": "run", "seed": 0},
        "environment": {
            "date": "today", "tf_reweight": "0", "keras": "3", "tensorflow": "2", "ai-edge-litert": "2", "platform": "here",
            "python": "3", "processor_count": 2,
        },
        "data": {"name": "digits", "num_train": 1293, "num_validation": 144, "num_test": 360},
        "stages": [stage("dense", 0.95, 72), stage("pruned", 0.94, 36)],
        "kernels": [{"name": "hidden/kernel", "kept_weights": 24, "num_weights": 48, "structure": "filter"}],
        "sets": [], "shrunk": None, "clustered": None,
        "left_out": [{"name": "out/kernel", "reason": "the output layer"}],
        "norms": [
            {"epoch": n, "counts": [n] * (len(EDGES) - 1), "living_groups": 50 - n, "num_groups": 72, "negligible": 1e-4}
            for n in (5, 10)
        ],
        "curves": [
            epoch("dense", 1), epoch("dense", 2),
            epoch("regularized", 1, strength=1e-3, penalty=0.5, living_groups=50, num_groups=72),
        ],
        "num_weights": 72,
        "num_nonzero": 36,
        "files": [file("dense_float32.tflite", 4000), file("pruned_int8.tflite", 1000)],
        "latency": {"num_runs": 50, "num_threads": 1},
        **changes,
    }  # fmt: skip
    return {**figures, "summary": tfr.reports.tables.summary(figures)}


FIGURES = whole()


class Outside(html.parser.HTMLParser):
    """Collects what a page would load from elsewhere, and checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.loaded, self.open = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("data:", "#")):
                self.loaded.append((tag, value))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def rendered():
    model = small()
    tfr.prune(model, sparsity=0.5, structure="unstructured")
    return page.render(FIGURES, model)


def test_nothing_is_loaded_from_elsewhere(rendered):
    parser = Outside()
    parser.feed(rendered)
    assert parser.loaded == [] and parser.open == []
    assert "<script" not in rendered and "@import" not in rendered


def test_names_are_escaped_and_figures_are_there(rendered):
    assert "&lt;script&gt;run" in rendered
    for text in (
        "the output layer", "tf-reweight compress --config a.yaml", "4.00x smaller", "dense_float32", "4,000", "1,117",
        "94.00%", "24 of 48", "40<small>of 72 kept", "1.000 ms",
    ):  # fmt: skip
        assert text in rendered, text
    assert rendered.count("data:image/png;base64,") == 2


def test_every_section_has_something_in_it(rendered):
    sections = rendered.split("<section>")[1:]
    assert len(sections) == 11
    for section in sections:
        inside = section.partition("</h2>")[2]
        assert re.search(r"<td|class=\"name\"|<svg|<img|<pre", inside), section[:80]


@pytest.mark.parametrize(
    "changes, gone",
    [
        ({"norms": []}, "The gap opens"),
        ({"curves": []}, "Epoch by epoch"),
        ({"left_out": []}, "Left out, and why"),
        ({"kernels": []}, "What is left of each layer"),
    ],
)
def test_what_a_run_does_not_have_is_not_on_its_page(changes, gone):
    assert gone in page.render(FIGURES) and gone not in page.render(whole(**changes))


def test_pages_of_coupled_shrunk_and_clustered_runs():
    coupled = whole(
        kernels=[], sets=[{"name": "a + b", "kept_groups": 3, "num_groups": 8}],
        shrunk={"parameters_before": 83, "parameters_after": 41}, clustered={"kernels": []},
    )  # fmt: skip
    text = page.render(coupled, small())
    for words in ("3 of 8", "83 parameters to 41", "Drawn before shrinking", "clustered"):
        assert words in text


def test_a_file_that_lost_is_called_larger_and_slower():
    worse = whole(files=[file("dense_float32.tflite", 1000), {**file("pruned_int8.tflite", 4000), "top1_agreement": None}])
    text = page.render(worse)
    assert "4.00x larger" in text and "4.00x slower" in text and "smaller" not in text


def test_the_tile_of_the_change_is_of_the_file_that_is_shipped():
    """It was that of the last file, beside sizes and times of the shipped one."""
    last = {**file("pruned_int16.tflite", 1500), "test_accuracy": 0.1}
    figures = whole(files=[*FIGURES["files"], last], shipped="pruned_int8.tflite")
    assert tfr.reports.page.change(figures) == tfr.reports.page.change(FIGURES)


def test_summary_and_ratios():
    summary = FIGURES["summary"]
    assert (summary["download"], summary["size"], summary["speed"], summary["weights"]) == (4, 4, 4, 2)
    assert summary["shipped"] == "pruned_int8.tflite" and summary["accuracy_before"] == 0.9
    assert [page.ratio(value) for value in (151.8, 99.96, 20.44, 9.996, 3.456, 0.5)] == [
        "152x", "100x", "20.4x", "10.0x", "3.46x", "0.50x"
    ]  # fmt: skip


@pytest.mark.parametrize("low, high", [(0.99, 0.991), (0.1, 1.0), (1.0, 1.0), (0.97, 0.97), (0.0, 0.0), (0.5, 0.9)])
def test_the_axis_of_accuracy_holds_every_dot(low, high):
    stages = [stage("dense", low + 0.01, 72), {**stage("pruned", 1, 36), "validation_accuracy": high, "test_accuracy": high}]
    stages[0]["validation_accuracy"] = low
    drawn = charts.accuracy(whole(stages=stages, files=[{**file("a.tflite", 10), "test_accuracy": low}]))
    places = [row[name] for row in drawn["rows"] for name in ("test_at", "validation_at") if row[name] is not None]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    texts = [float(text) for _, text in drawn["ticks"]]
    assert 2 <= len(texts) <= 8 and texts == sorted(set(texts)) and texts[-1] <= 100


def test_curves_are_broken_between_stages_and_start_where_they_have_values():
    drawn = charts.curves(FIGURES["curves"])
    assert drawn["stages"] == [["dense", 2], ["regularized", 1]]
    panels = {panel["title"]: panel for panel in drawn["panels"]}
    assert list(panels) == ["Accuracy", "What is left", "Penalty", "Strength", "Learning rate"]
    assert panels["Accuracy"]["svg"].count("<polyline") == 4 and panels["Strength"]["svg"].count("<polyline") == 1
    # One epoch of three: its stretch lies in the last third.
    points = re.search(r'points="([^"]+)"', panels["Strength"]["svg"]).group(1)
    assert all(2000 / 3 < float(point.split(",")[0]) < 1000 for point in points.split())
    assert "Strength" not in [panel["title"] for panel in charts.curves([epoch("dense", 1)])["panels"]]


def test_free_groups_are_drawn_apart():
    (row, _), ticks = charts.norms(FIGURES["norms"])["rows"], charts.norms(FIGURES["norms"])["ticks"]
    below = sum(edge <= -4 for edge in EDGES[1:])
    assert row["svg"].count('"free"') == below and row["svg"].count('"kept"') == len(EDGES) - 1 - below
    assert ticks[0] == (0.0, "0") and ticks[-1] == (100.0, "1e+2")


def test_pictures_show_sign_size_and_what_is_gone():
    image = pictures.coloured(np.array([[1.0, -0.25], [0.0, np.nan]]))
    assert image[0, 0, 3] == 255 and image[1, 0, 3] == 0 and 0 < image[1, 1, 3] < 100
    blue, orange = image[0, 0, :3].astype(int), image[0, 1, :3].astype(int)
    assert blue[2] > blue[0] and orange[0] > orange[2] and 100 < image[0, 1, 3] < 255
    assert pictures.coloured(np.zeros((2, 2)))[..., 3].max() == 0


def test_large_kernels_show_the_largest_weight_of_each_cell():
    matrix = np.zeros((960, 3), "float32")
    matrix[1], matrix[2], matrix[959] = 0.5, -2.0, 1.0
    shown = pictures.cells(matrix)
    assert shown.shape == (320, 3) and shown[0, 0] == -2.0 and shown[-1, 0] == 1.0 and np.count_nonzero(shown) == 6


@pytest.mark.parametrize("shape", [(3, 3, 1, 5), (3, 3, 7, 1), (2, 3, 4, 5), (1, 1, 8, 4), (3, 3, 400, 2), (6, 5), (3, 4, 5)])
def test_pictures_of_every_kind_of_kernel(shape):
    """Every weight is in the picture, once; and the picture is one that a browser reads."""
    import io

    from matplotlib import image

    kernel = np.ones(shape, "float32")
    made = pictures._picture("name", kernel)
    pixels = image.imread(io.BytesIO(base64.b64decode(made["image"].partition(",")[2])))
    if "several" not in made["how"]:
        assert np.count_nonzero(pixels[..., 3] == 1.0) == kernel.size
    assert made["height"] % pixels.shape[0] == made["width"] % pixels.shape[1] == 0
    assert 24 <= min(made["height"], made["width"]) and max(made["height"], made["width"]) <= 320
    assert made["kept"] == f"{kernel.size:,} of {kernel.size:,}"


def fitted(callbacks, epochs=4, **options):
    model = small()
    tfr.regularize(model, "unstructured", 1e-3)
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((8, 6), "float32"), np.ones((8, 3), "float32")
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[tfr.callbacks.Reweighting(every=2), *callbacks], **options)
    return model


def test_curves_record_what_training_did(tmp_path):
    curves, spread = Curves("first", tmp_path / "curves.jsonl", tmp_path / "logs"), NormSummaries(every=1)
    history = keras.callbacks.History()
    model = fitted([curves, spread, history, tfr.callbacks.CosineDecay(0.1)], validation_split=0.25)
    records = curves.history
    assert [record["epoch"] for record in records] == [1, 2, 3, 4] and {record["stage"] for record in records} == {"first"}
    for name, values in history.history.items():
        assert [record[name] for record in records] == pytest.approx(values)
    assert records[0]["learning_rate"] > records[-1]["learning_rate"] >= 0 and records[0]["strength"] == 1e-3
    assert [record["counts"] for record in records] == [record["counts"] for record in spread.history]
    parts = [layer.kernel_regularizer(layer.kernel) for layer in model.layers]
    assert records[-1]["penalty"] == pytest.approx(float(sum(parts)), rel=1e-5)
    assert records[-1]["num_nonzero"] == records[-1]["num_weights"] == records[-1]["num_groups"] == 72
    (written,) = [path for path in (tmp_path / "logs").iterdir() if "tfevents" in path.name]
    assert b"curves/val_mae" in written.read_bytes() and b"curves/penalty" in written.read_bytes()


def test_curves_of_an_interrupted_training_are_whole(tmp_path):
    path = tmp_path / "curves.jsonl"
    fitted([Curves("other", path)], epochs=1)
    fitted([Curves("cut", path)], epochs=3)
    with open(path, "a") as file:
        file.write('{"stage": "cut", "ep\n')
    again = Curves("cut", path)
    fitted([again], epochs=4, initial_epoch=2)
    assert [record["epoch"] for record in again.history] == [1, 2, 3, 4] and len(read_curves(path)) == 5
    assert read_curves(tmp_path / "none.jsonl") == []
    plain = Curves()
    fitted([plain], epochs=2)
    assert [record["epoch"] for record in plain.history] == [1, 2]


def test_norms_are_counted_as_they_are(tmp_path):
    model = small()
    tfr.regularize(model, "unstructured", 1e-3)
    model.compile("sgd", "mse")
    x, y = np.ones((8, 6), "float32"), np.ones((8, 3), "float32")
    summaries = NormSummaries(every=2, log_dir=tmp_path)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[tfr.callbacks.Reweighting(every=2), summaries])
    assert [record["epoch"] for record in summaries.history] == [2, 4]
    kernels = [np.abs(layer.kernel.numpy()).ravel() for layer in model.layers]
    sizes = np.log10(np.concatenate(kernels))
    for low, high, count in zip(EDGES, EDGES[1:], summaries.history[-1]["counts"]):
        assert count == np.sum((sizes >= low) & (sizes < high))
    assert summaries.history[-1]["num_groups"] == 72 and json.dumps(summaries.history)
    written = [path for path in tmp_path.iterdir() if "tfevents" in path.name]
    assert written and b"living_groups/hidden/kernel" in written[0].read_bytes()


def test_events_are_in_the_file_where_a_fit_is_interrupted(tmp_path):
    """They were written at the end of `fit`, which Keras does not reach then."""

    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    model = small()
    tfr.regularize(model, "unstructured", 1e-3)
    model.compile("sgd", "mse", run_eagerly=True)
    callbacks = [Curves(log_dir=tmp_path), NormSummaries(log_dir=tmp_path), PruningSummaries(tmp_path)]
    callbacks += [keras.callbacks.LambdaCallback(on_epoch_end=interrupt)]
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.ones((8, 6), "float32"), np.ones((8, 3), "float32"), verbose=0, callbacks=callbacks)
    events = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"curves/num_nonzero" in events and b"log10_norm/" in events and events.count(b"loss") == 2
    callbacks.pop()
    model.fit(np.ones((8, 6), "float32"), np.ones((8, 3), "float32"), verbose=0, callbacks=callbacks)


def test_bad_summaries(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="`every` must be an int"):
        NormSummaries(every=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for summaries in (NormSummaries, Curves):
        with pytest.raises(ValueError, match="needs TensorBoard"):
            summaries(log_dir=tmp_path)


def test_figures_that_are_not_finite_are_null_in_files_and_nan_where_they_are_read(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    curves = Curves(path=tmp_path / "curves.jsonl")
    model.fit(np.full((8, 6), np.nan, "float32"), np.zeros((8, 2)), verbose=0, callbacks=[curves])
    text = (tmp_path / "curves.jsonl").read_text()
    assert '"loss": null' in text and "NaN" not in text
    assert np.isnan(curves.history[0]["loss"]) and curves.history[0]["num_weights"] == 12
    with (tmp_path / "curves.jsonl").open("a") as file:  # as it was written before
        file.write('{"stage": "fit", "epoch": 2, "loss": NaN}\n')
    assert [np.isnan(record["loss"]) for record in read_curves(tmp_path / "curves.jsonl")] == [True, True]


def test_json_of_any_figures_is_read_by_strict_readers():
    given = {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf"), "d": None, "e": "NaN"}, "f": np.float32("nan")}
    text = to_json(given, indent=1, default=lambda value: value.item())
    assert json.loads(text) == {"a": [None, [None, 1.5]], "b": {"c": None, "d": None, "e": "NaN"}, "f": None}
