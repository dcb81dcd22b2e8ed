"""Every report can be printed, laid out and stored, whoever made it."""

import dataclasses
import importlib
import json
import pkgutil

import keras
import numpy as np
import pytest
from rich.table import Table

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.coupling.reconstruction import reconstruct
from tf_reweight.data import labelled
from tf_reweight.records import Report, printed, tables_of
from tf_reweight.tflite import phone_log
from tf_reweight.workflow.fronts import Front

L = keras.layers


def net():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, name="conv"), L.ReLU(), L.Flatten(), L.Dense(3, name="top")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


X = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
Y = np.arange(16) % 3


def pruned():
    model = net()
    tfr.prune_groups(model, 0.5)
    return model


def stale():
    layers = [L.Conv2D(8, 3), L.BatchNormalization(name="norm"), L.Flatten(), L.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.get_layer("norm").moving_mean.assign(np.full(8, 50.0))
    return model


def eligible():
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, 2, padding="same", name="stem")(inputs)
    x = L.Conv2D(8, 1, name="next")(x)
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x))


def exported(tmp_path):
    return export.export_tflite(net(), tmp_path / "a.tflite", verify_data=X)


def phone_run(tmp_path):
    timings = "Inference timings in us: Init: 9, First inference: 8, Warmup (avg): 7, Inference (avg): 6"
    (tmp_path / "cpu.log").write_text(f"STARTING!\n{timings}\n")
    return phone_log.read_log(tmp_path / "cpu.log")


def reconstructed(tmp_path):
    dense = net()
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    tfr.prune_groups(model, 0.5)
    return reconstruct(model, dense, labelled.read(model, X))


def front(tmp_path):
    point = {"name": "macs_0.5", "validation": 0.9, "test": 0.8, "num_macs": 10, "num_bytes": 20, "latency_ms": 0.1}
    return Front({"name": "accuracy", "mode": "max", "proportion": True}, ({**point, "best_by": [], "knee_by": []},))


# One for each heir of `Report`: how it is had, and a word of its text.
REPORTS = {
    "Attached": (lambda tmp_path: tfr.regularize(net(), "filter"), "conv"),
    "CoupledPenalties": (lambda tmp_path: tfr.regularize_coupled(net()), "conv"),
    "CoupledSets": (lambda tmp_path: tfr.groups(net()), "conv"),
    "PruneReport": (lambda tmp_path: tfr.prune(net(), "filter", sparsity=0.5), "conv/kernel"),
    "GroupPruneReport": (lambda tmp_path: tfr.prune_groups(net(), 0.5), "conv"),
    "Reconstruction": (reconstructed, "top"),
    "Front": (front, "macs_0.5"),
    "ShrinkReport": (lambda tmp_path: tfr.shrink(pruned(), return_report=True)[1], "conv"),
    "QuantizationReport": (lambda tmp_path: tfr.quantize(net(), return_report=True)[1], "conv"),
    "ClusterReport": (lambda tmp_path: tfr.quantization.cluster(net(), 4), "conv"),
    "StatisticsReport": (lambda tmp_path: tfr.refresh_statistics(stale(), X), "norm"),
    "SensitivityReport": (lambda tmp_path: tfr.reports.sensitivity.sensitivity(net(), (X, Y)), "conv"),
    "ExportRecord": (exported, "a.tflite"),
    "Delegation": (lambda tmp_path: export.delegation(exported(tmp_path).path), "XNNPACK runs all"),
    "FileCheck": (lambda tmp_path: export.check_file(exported(tmp_path).path, max_bytes=10**6), "passed"),
    "FileSummary": (lambda tmp_path: export.inspect_tflite(exported(tmp_path).path), "CONV_2D"),
    "Latencies": (lambda tmp_path: export.benchmark([exported(tmp_path).path], 1), "a.tflite"),
    "PackResult": (lambda tmp_path: export.pack_tflite(exported(tmp_path).path, tmp_path / "b.tflite"), "conv"),
    "ArmReport": (lambda tmp_path: export.arm_eligibility(exported(tmp_path).path.read_bytes()), "nothing is in the way"),
    "ArmFix": (lambda tmp_path: export.make_arm_eligible(eligible())[1], "stem"),
    "Explanation": (lambda tmp_path: export.explain(net(), exported(tmp_path).path, X), "CONV_2D"),
    "PhoneRun": (phone_run, "benchmark_model"),
    "PrecisionReport": (lambda tmp_path: export.precision_sensitivity(net(), X, Y), "conv"),
    "MixedRecord": (lambda tmp_path: export.export_mixed(net(), tmp_path / "a.tflite", 100_000, X), "a.tflite"),
}


def heirs(cls):
    return {cls, *(heir for direct in cls.__subclasses__() for heir in heirs(direct))}


def test_every_report_is_in_the_table():
    for module in pkgutil.walk_packages(tfr.__path__, "tf_reweight."):
        importlib.import_module(module.name)
    assert {cls.__name__ for cls in heirs(Report) if cls.__module__.startswith("tf_reweight.")} - {"Report"} == set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_printed_laid_out_and_stored(name, tmp_path):
    if name in ("PrecisionReport", "MixedRecord"):
        pytest.importorskip("litert_quantizer")
    make, word = REPORTS[name]
    report = make(tmp_path)
    assert type(report).__name__ == name
    figures = report.to_dict()
    assert json.loads(json.dumps(figures)) is not None and figures
    tables = report.to_tables()
    assert tables and all(isinstance(table, Table) and table.row_count for table in tables)
    assert word in str(report) and word in printed(tables) and "object at 0x" not in str(report) + json.dumps(figures)


@dataclasses.dataclass(frozen=True)
class Toy(Report):
    count: int
    share: float
    rows: tuple
    nothing: tuple = ()


def test_the_generic_tables():
    toy = Toy(3, 1 / 3, ({"name": "a", "why": ("x", "y")}, {"name": "b", "why": ()}))
    single, rows = toy.to_tables()
    assert single.title == "Toy" and single.row_count == 2 and rows.title == "rows" and rows.row_count == 2
    assert [column.header for column in rows.columns] == ["name", "why"] and list(rows.columns[1].cells) == ["x, y", ""]
    assert "0.333333" in str(toy) and "nothing" not in str(toy)
    assert tables_of({}, "empty") == []
