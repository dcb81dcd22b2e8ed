"""The page stands alone and says what the report says; the norms it draws are those of the kernels."""

import html.parser
import json
import re

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import page
from tf_reweight.page import charts
from tf_reweight.summaries import EDGES, NormSummaries

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
        "gzip_bytes": size // 2,
        "sparsity": 0.5, "num_ops": 4, "float_ops": [], "relative_error": 0.01, "latency_ms": size / 1000,
    }  # fmt: skip


FIGURES = {
    "name": "<script>run</script>",
    "command": "tf-reweight compress --config a.yaml",
    "config": {"name": "run"},
    "environment": {
        "date": "today", "tf_reweight": "0", "keras": "3", "tensorflow": "2", "ai-edge-litert": "2", "platform": "here"
    },
    "data": {"name": "digits", "num_train": 1293, "num_validation": 144, "num_test": 360},
    "stages": [stage("dense", 0.95, 72), stage("pruned", 0.94, 36)],
    "kernels": [{"name": "hidden/kernel", "kept_weights": 24, "num_weights": 48}],
    "sets": [],
    "left_out": [{"name": "out/kernel", "reason": "the output layer"}],
    "norms": [{"epoch": n, "counts": [n] * (len(EDGES) - 1), "living_groups": 50 - n, "num_groups": 72} for n in (5, 10)],
    "num_weights": 72,
    "num_nonzero": 36,
    "files": [file("dense_float32.tflite", 4000), file("pruned_int8.tflite", 1000)],
}  # fmt: skip


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
    for text in ("the output layer", "tf-reweight compress --config a.yaml", "2.0x", "dense_float32", "4,000", "94.00%"):
        assert text in rendered, text
    assert len(re.findall(r"<svg", rendered)) == 6 and rendered.count("data:image/png;base64,") == 2


def test_ids_of_different_charts_do_not_meet(rendered):
    """SVG ids are shared by a whole page: a clip path of one chart must not be taken by another."""
    ids = [set(re.findall(r'clipPath id="([^"]+)"', part)) for part in rendered.split("<svg")[1:]]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_a_page_without_norms_and_pictures():
    assert "The gap opens" not in page.render({**FIGURES, "norms": []})
    coupled = {**FIGURES, "kernels": [], "sets": [{"name": "a + b", "kept_groups": 3, "num_groups": 8}]}
    assert "3 of 8" in page.render(coupled)


def test_pictures_show_the_share_that_is_left():
    alive = np.zeros((600, 3), bool)
    alive[:300] = True
    cells = charts._cells(alive)
    assert cells.shape == (256, 3) and cells[0, 0] == 1.0 and cells[-1, 0] == 0.0
    assert cells.mean() == pytest.approx(0.5, abs=0.01)


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


def test_bad_summaries(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="`every` must be an int"):
        NormSummaries(every=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs TensorBoard"):
        NormSummaries(log_dir=tmp_path)
