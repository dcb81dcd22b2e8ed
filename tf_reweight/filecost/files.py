"""Files of a model, written to be measured only."""

import importlib.util
import pathlib
import tempfile

import keras

from tf_reweight import errors
from tf_reweight.export.conversion import convert
from tf_reweight.export.litert_quantizer import check_installed
from tf_reweight.export.precisions import PRECISIONS, TABLE
from tf_reweight.export.samples import input_specs
from tf_reweight.graph.random_inputs import inputs
from tf_reweight.graph.recasting import single_precision
from tf_reweight.packing.pack import pack
from tf_reweight.quantization.ranges import is_quantized
from tf_reweight.tflite.latency import benchmark
from tf_reweight.tflite.sizes import gzip_size

# Random examples that set the ranges of integer files: sizes and times do not depend on them.
_EXAMPLES = 8
# Runs of each file that is timed, in turns.
_RUNS = 200


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
