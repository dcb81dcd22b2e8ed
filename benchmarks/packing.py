"""What packing saves: structures x sparsity x precision, against the dense file and the converter's own sparsity flag.

Every packed file is run in LiteRT, with and without the default delegate, and must compute what the dense one does, to the
last bit.

    python benchmarks/packing.py --sparsity 0.75 --precision int8         # one table, minutes
    python benchmarks/packing.py --flag --output packing.json             # everything, and the converter's flag as well
    python benchmarks/packing.py --large                                  # 25 million weights
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

_PRECISIONS = ("float32", "float16", "dynamic_int8", "int8")
_STRUCTURES = {
    "conv": ("random", "filter", "channel", "column", "kernel", "block"),
    "dense": ("random", "filter", "channel", "block"),
}
_FIELDS = (
    ("net", "<6"), ("structure", "<10"), ("zeros", ">6"), ("precision", "<13"), ("dense", ">9"), ("packed", ">9"),
    ("of dense", ">9"), ("dense gz", ">9"), ("packed gz", ">10"), ("zipped gz", ">10"), ("flag", ">9"),
    ("flag says", "<14"), ("kernels", ">8"),
)  # fmt: skip


def build(net):
    """One of the two nets, about half a million weights each, with random weights."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    if net == "dense":
        stack = [keras.Input(batch_shape=(1, 784)), layers.Dense(512, activation="relu"), layers.Dense(256, activation="relu")]
    else:
        stack = [keras.Input(batch_shape=(1, 16, 16, 16)), layers.Conv2D(64, 3, activation="relu")]
        stack += [layers.Conv2D(128, 3, strides=2, activation="relu"), layers.Conv2D(256, 3, padding="same", activation="relu")]
        stack += [layers.Conv2D(512, 1, activation="relu"), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*stack, layers.Dense(10)])
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(keras.random.normal(weight.shape, seed=1) * 0.1)
    return model


def mask(shape, structure, sparsity, rng):
    """Which weights of a Keras kernel `(..., in, out)` stay."""
    import numpy as np

    if structure == "random":
        return rng.random(shape) >= sparsity
    if structure == "kernel":
        return np.broadcast_to(rng.random(shape[-2:]) >= sparsity, shape)
    if structure == "column":
        return np.broadcast_to(rng.random((*shape[:-1], 1)) >= sparsity, shape)
    if structure == "block":
        blocks = [1] * (len(shape) - 2) + [4 if size % 4 == 0 else 1 for size in shape[-2:]]
        return np.kron(rng.random([size // block for size, block in zip(shape, blocks)]) >= sparsity, np.ones(blocks))
    axis = -1 if structure == "filter" else -2
    kept = rng.permutation(shape[axis]) >= round(sparsity * shape[axis])
    return np.broadcast_to(kept if axis == -1 else kept[:, None], shape)


def flagged(model, precision, inputs):
    """The bytes that the converter's EXPERIMENTAL_SPARSITY flag makes."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        kinds = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
        converter.optimizations = [*kinds, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: ([x] for x in inputs)
        return converter.convert()


def verdict(dense, other, inputs):
    """What the converter's own sparse file is worth, in two words."""
    from tf_reweight.packing import equivalence
    from tf_reweight.tflite import litert
    from tf_reweight.tflite.comparing import VerificationError, compare

    try:
        equivalence.check_same(dense, other)
        return "loads, same"
    except VerificationError as error:
        if "must run" in str(error):
            return "does not load"
    runs = [[litert.run(content, [inputs], delegate) for content in (dense, other)] for delegate in (True, False)]
    error = max(compare(*pair)[1] for pair in runs)
    return "loads, rounds" if error < 1e-5 else "loads, wrong"


def examine(net, precision, cases, flag):
    """Yields one row per `(structure, sparsity)`, first its announcement, so that a crash can be named."""
    import numpy as np

    from tf_reweight.export import samples
    from tf_reweight.export.conversion import convert
    from tf_reweight.packing import equivalence, pack
    from tf_reweight.tflite import sizes

    model = build(net)
    original = model.get_weights()
    specs = samples.input_specs(model, None)
    inputs = np.random.default_rng(0).normal(size=(8, 1, *specs[0].shape[1:])).astype("float32")
    for structure, sparsity in cases:
        rng = np.random.default_rng(1)
        row = {"net": net, "structure": structure, "sparsity": sparsity, "precision": precision}
        yield {**row, "started": True}
        # The last layer stays whole, as it does in practice.
        weights = [w * mask(w.shape, structure, sparsity, rng) if w.ndim > 1 else w for w in original[:-2]]
        model.set_weights([*weights, *original[-2:]])
        dense = convert(model, precision, specs, [inputs[:, 0]] if precision == "int8" else None)
        start = time.perf_counter()
        result = pack.pack(dense)
        row |= {"pack_seconds": round(time.perf_counter() - start, 3), "num_kernels": len(result.tensors)}
        equivalence.check_same(dense, result.content)
        row |= {"dense_bytes": len(dense), "packed_bytes": len(result.content), "num_packed": result.num_packed}
        row |= {"dense_gzip": sizes.gzip_size(dense), "packed_gzip": sizes.gzip_size(result.content)}
        download = pack.pack(dense, zipped=True).content
        row |= {"download_bytes": len(download), "download_gzip": sizes.gzip_size(download)}
        yield row
        if flag:
            other = flagged(model, precision, inputs)
            row |= {"flag_bytes": len(other), "flag_gzip": sizes.gzip_size(other), "flag": verdict(dense, other, inputs)}
            yield row


def run_in_process(net, precision, cases, flag):
    """Rows of `examine` in a fresh process, and in another one for what a crash left."""
    rows, left = {}, list(cases)
    while left:
        task = json.dumps({"net": net, "precision": precision, "cases": left, "flag": flag})
        done = subprocess.run([sys.executable, __file__, "--child", task], capture_output=True, text=True, check=False)
        started = None
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                started = (row["structure"], row["sparsity"])
                rows[started] = row
        if done.returncode == 0:
            break
        last = (done.stderr.strip().splitlines() or [""])[-1]
        started = started or tuple(left[0])
        what = {"flag": "crashes"} if "packed_bytes" in rows.get(started, {}) else {"error": f"{done.returncode}: {last}"}
        rows[started] = {"net": net, "structure": started[0], "sparsity": started[1], "precision": precision,
                         **rows.get(started, {}), **what}  # fmt: skip
        left = left[[tuple(case) for case in left].index(started) + 1 :]
    return list(rows.values())


def formatted(row):
    """A row of the printed table."""
    if "error" in row:
        return f"{row['net']} {row['structure']} {row['sparsity']} {row['precision']} failed: {row['error']}"
    values = (
        row["net"], row["structure"], f"{row['sparsity']:.0%}", row["precision"], row["dense_bytes"], row["packed_bytes"],
        f"{row['packed_bytes'] / row['dense_bytes']:.1%}", row["dense_gzip"], row["packed_gzip"], row["download_gzip"],
        row.get("flag_bytes", "-"), row.get("flag", "-"), f"{row['num_packed']}/{row['num_kernels']}",
    )  # fmt: skip
    return " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))


def with_zeros(content, rng, sparsity):
    """The same file with random zeros in its kernels."""
    from tf_reweight.tflite import constants, flatbuffer

    model = flatbuffer.parse(content)
    for tensor in model.subgraphs[0].tensors:
        values = constants.values(model, tensor)
        if values is not None and values.ndim > 1 and flatbuffer.dtype_name(tensor) in flatbuffer.WEIGHT_TYPES:
            kept = (rng.random(values.shape) >= sparsity).astype(values.dtype)
            model.buffers[tensor.buffer].data = (values * kept).view("uint8").reshape(-1)
    return flatbuffer.write(model)


def large(sparsity):
    """Rows for a net of 25 million weights: how long packing, and loading the dense and the packed file, takes."""
    import keras
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    from tf_reweight.export import samples
    from tf_reweight.export.conversion import convert
    from tf_reweight.graph import random_inputs
    from tf_reweight.packing import equivalence, pack

    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((2048,)), dense(4096, activation="relu"), dense(4096), dense(10)])
    specs = samples.input_specs(model, None)
    for precision in ("int8", "float32"):
        dense = convert(model, precision, specs, random_inputs.inputs(model, specs) if precision == "int8" else None)
        content = with_zeros(dense, np.random.default_rng(0), sparsity)
        start = time.perf_counter()
        result = pack.pack(content)
        row = {"precision": precision, "sparsity": sparsity, "num_weights": model.count_params()}
        row |= {"pack_seconds": round(time.perf_counter() - start, 2)}
        row |= {"dense_bytes": len(content), "packed_bytes": len(result.content), "num_packed": result.num_packed}
        for name, version in (("dense", content), ("packed", result.content)):
            start = time.perf_counter()
            Interpreter(model_content=version).allocate_tensors()
            row[f"{name}_load_seconds"] = round(time.perf_counter() - start, 2)
        equivalence.check_same(content, result.content)
        print(json.dumps(row), flush=True)
        yield row


def table(options):
    """All rows, printed as they come."""
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for net in options.net:
        cases = [(structure, sparsity) for structure in _STRUCTURES[net] for sparsity in options.sparsity]
        for precision in options.precision:
            for row in run_in_process(net, precision, cases, options.flag):
                print(formatted(row), flush=True)
                yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", nargs="+", choices=tuple(_STRUCTURES), default=tuple(_STRUCTURES))
    parser.add_argument("--precision", nargs="+", choices=_PRECISIONS, default=_PRECISIONS)
    parser.add_argument("--sparsity", nargs="+", type=float, default=(0.5, 0.75, 0.9), metavar="S", help="fractions removed")
    parser.add_argument("--flag", action="store_true", help="also convert with the converter's EXPERIMENTAL_SPARSITY")
    parser.add_argument("--large", action="store_true", help="instead: time a net of 25 million weights, 90 %% zeros")
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        for row in examine(**options.child):
            print(json.dumps(row), flush=True)
        return
    rows = []
    for row in large(0.9) if options.large else table(options):
        rows.append(row)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
