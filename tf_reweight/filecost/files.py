"""Files of a model, written to be measured only."""

import functools
import importlib.util
import json
import pathlib
import tempfile

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight._version import __version__
from tf_reweight.export.conversion import convert
from tf_reweight.export.litert_quantizer import check_installed
from tf_reweight.export.precisions import PRECISIONS, TABLE
from tf_reweight.export.samples import input_specs
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.own_parts import parts_by_name
from tf_reweight.graph.random_inputs import inputs
from tf_reweight.graph.recasting import single_precision
from tf_reweight.kernels import measured
from tf_reweight.packing.pack import pack
from tf_reweight.quantization.ranges import is_quantized
from tf_reweight.tflite.latency import benchmark
from tf_reweight.tflite.sizes import gzip_size

# Random examples that set the ranges of integer files: sizes and times do not depend on them.
_EXAMPLES = 8
# Runs of each file that is timed, in turns.
_RUNS = 200
# In configs: where shared objects lie in memory, seeds that are drawn where none is given, and what no file depends on.
_OF_THE_PROCESS = {"shared_object_id", "seed", "build_config", "compile_config"}


def check_can_measure(model, budget):
    """Raises where a `Budget` limits what cannot be measured here."""
    if budget.stored_in not in PRECISIONS:
        raise ValueError(errors.unknown("precision", budget.stored_in, PRECISIONS))
    if TABLE[budget.stored_in].by_quantizer:
        check_installed()
    if keras.backend.backend() != "tensorflow":
        fix = "Limit macs, parameters or weights, or load the model in a process with KERAS_BACKEND=tensorflow."
        expected = "A budget of bytes or milliseconds needs files, which only the TensorFlow backend can export."
        raise ValueError(errors.message(expected, fix, budget=budget, backend=keras.backend.backend()))
    if budget.latency_ms is not None and importlib.util.find_spec("ai_edge_litert") is None:
        fix = "Install ai-edge-litert, or limit macs."
        raise ImportError(errors.message("A budget of milliseconds needs LiteRT to run files.", fix, budget=budget))
    open_sizes = [tensor.shape for tensor in model.inputs if None in tensor.shape[1:]]
    if open_sizes:
        fix = "Build the model with inputs of known sizes, or limit macs or parameters."
        expected = "A budget of bytes or milliseconds needs a model whose inputs have known sizes."
        raise ValueError(errors.message(expected, fix, inputs=open_sizes))


def content_of(model, precision):
    """The bytes of a `.tflite` of a model; not verified, since it is measured only."""
    model = single_precision(model)
    specs = input_specs(model)
    needs_data = TABLE[precision].needs_data and not is_quantized(model)
    return convert(model, precision, specs, inputs(model, specs, _EXAMPLES) if needs_data else None)


def sizes_of_file(model, precision, packed=False, name="a file"):
    """The `sizes` of a `.tflite` of a model, which is written where they are not known from before.

    Args:
        model: a built Keras model.
        precision: of the file.
        packed: as of `sizes`.
        name: of the file, in words.
    """
    mark = functools.partial(_mark, model, precision, packed)
    return measured.once(mark, name, lambda: sizes(content_of(model, precision), packed))


def _mark(model, precision, packed):
    """What tells such a file from all others; None for a model with code of the user's, whose text is not known."""
    if parts_by_name(model):
        return None
    versions = (__version__, keras.__version__, keras.backend.backend(), precision, str(packed))
    # The names of layers are in a file.
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model), default=repr), object_hook=_settled)
    text = json.dumps(config, sort_keys=True)
    texts = [part.encode() for part in (*versions, text)]
    return [*texts, *(np.ascontiguousarray(as_numpy(weight)).tobytes() for weight in model.weights)]


def _settled(config):
    """An object of a config without what differs from process to process."""
    return {key: part for key, part in config.items() if key not in _OF_THE_PROCESS}


def sizes(content, packed=False):
    """Mapping of `bytes` and `zipped_bytes` of a file, packed where that makes it smaller."""
    found = {"bytes": len(content), "zipped_bytes": gzip_size(content)}
    if not packed:
        return found
    small = pack(content).content
    return {"bytes": min(found["bytes"], len(small)), "zipped_bytes": min(found["zipped_bytes"], gzip_size(small))}


def times(contents):
    """Median milliseconds of some files' bytes, measured in turns in one process."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{number}.tflite" for number in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_bytes(content)
        return [row["median_ms"] for row in benchmark(paths, _RUNS).rows]
