"""Random small graphs through both runtimes, acceleration, pack and verify.

Every file must compute the same in the interpreter and in CompiledModel. Rewritten so that XNNPACK runs more of it, it must
compute nearly the same in both, and packed, bit for bit the same in both.

Each graph is made of its seed alone. With --output, every result is kept as a line of JSON; the same command goes on where it
stopped, and a crash of LiteRT or the converter is a result like any other. Precisions are those of `export_tflite`, and
"mixed", one for each kernel.

    python benchmarks/fuzz.py 500 --output fuzz.jsonl
    python benchmarks/fuzz.py 100 --verify_arm                            # on an emulated ARM machine as well
    python benchmarks/fuzz.py 1 --first 17                                # one of them again
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

_MIXED = "mixed"
# Both runtimes have the same kernels, as one set of random graphs shows; rewritten files round less.
_SAME, _NEAR = 1e-6, 0.25
_ACTIVATIONS = (None, "relu", "relu6", "tanh", "silu")


def image_block(x, rng):
    """One random layer, or a few, on images."""
    from keras import layers

    width, kernel = int(rng.integers(1, 70)), int(rng.choice([1, 1, 2, 3, 5]))
    options = {"activation": rng.choice(_ACTIVATIONS), "use_bias": bool(rng.random() < 0.7), "padding": "same"}
    kind = rng.integers(10)
    if kind < 3:
        groups = 2 if x.shape[-1] % 2 == 0 and width % 2 == 0 and rng.random() < 0.2 else 1
        return layers.Conv2D(width, kernel, strides=int(rng.integers(1, 3)), groups=groups, **options)(x)
    if kind == 3:
        return layers.DepthwiseConv2D(kernel, depth_multiplier=int(rng.integers(1, 3)), **options)(x)
    if kind == 4:
        return layers.Conv2DTranspose(width, kernel, strides=2, **options)(x)
    if kind == 5:
        return layers.Dense(width, activation=options["activation"], use_bias=options["use_bias"])(x)
    if kind == 6:
        return layers.BatchNormalization()(layers.MaxPooling2D(2, padding="same")(x))
    if kind == 7:
        return layers.Concatenate()([layers.Conv2D(width, 1)(x), x])
    if kind == 8:
        return layers.SeparableConv2D(width, kernel, strides=int(rng.integers(1, 3)), **options)(x)
    return layers.Add()([layers.Conv2D(x.shape[-1], 3, padding="same")(x), x])


def sequence_block(x, rng):
    """One random layer, or a few, on sequences."""
    from keras import layers

    width, activation = int(rng.integers(1, 70)), rng.choice(_ACTIVATIONS)
    kind = rng.integers(5)
    if kind == 0:
        return layers.Conv1D(width, int(rng.integers(1, 4)), padding="same", activation=activation)(x)
    if kind == 1:
        return layers.Dense(width, activation=activation)(x)
    if kind == 2:
        return layers.LayerNormalization()(x)
    if kind == 3:
        return layers.LSTM(int(rng.integers(1, 30)), return_sequences=True, unroll=True)(x)
    return layers.Add()([x, layers.MultiHeadAttention(2, int(rng.integers(1, 9)))(x, x)])


def random_net(rng):
    """A small net of random layers on images or sequences, sometimes of indices."""
    import keras
    from keras import layers

    if rng.random() < 0.75:
        size = int(rng.integers(5, 13))
        x = inputs = keras.Input((size, size, int(rng.integers(1, 40))))
        block, heads = image_block, (layers.GlobalAveragePooling2D(), layers.GlobalAveragePooling2D(keepdims=True))
    else:
        length, block, heads = int(rng.integers(2, 7)), sequence_block, (layers.GlobalAveragePooling1D(),)
        if rng.random() < 0.3:
            inputs = keras.Input((length,), dtype="int32")
            x = layers.Embedding(int(rng.integers(2, 200)), int(rng.integers(1, 40)))(inputs)
        else:
            x = inputs = keras.Input((length, int(rng.integers(1, 40))))
    for _ in range(rng.integers(1, 5)):
        x = block(x, rng)
    head = [*heads, layers.Flatten()][rng.integers(len(heads) + 1)]
    return keras.Model(inputs, layers.Dense(int(rng.integers(2, 100)))(head(x)))


def sparser(content, rng):
    """The same file with zeros of a random structure, along any axes of each kernel."""
    from tf_reweight.tflite import constants, flatbuffer

    model = flatbuffer.parse(content)
    for tensor in model.subgraphs[0].tensors:
        values = constants.values(model, tensor)
        if values is None or values.ndim < 2 or flatbuffer.dtype_name(tensor) not in flatbuffer.WEIGHT_TYPES:
            continue
        along = [size if rng.random() < 0.6 else 1 for size in values.shape]
        kept = rng.random(along) >= rng.choice([0.0, 0.5, 0.75, 0.9, 0.99])
        model.buffers[tensor.buffer].data = (values * kept.astype(values.dtype)).view("uint8").reshape(-1)
    return flatbuffer.write(model)


def dense_file(precision, rng):
    """A random graph as a file with zeros, not packed yet."""
    from tf_reweight.export import mixed, samples
    from tf_reweight.export.conversion import convert
    from tf_reweight.export.litert_quantizer import WEIGHT_PRECISIONS, requantize
    from tf_reweight.export.precisions import TABLE
    from tf_reweight.graph import random_inputs

    model = random_net(rng)
    specs, kind = samples.input_specs(model, None), TABLE.get(precision)
    data = random_inputs.inputs(model, specs, num=8) if kind and kind.needs_data else None
    by_converter = kind is not None and not kind.by_quantizer
    content = sparser(convert(model, precision if by_converter else "float32", specs, data), rng)
    if by_converter:
        return content
    if precision == _MIXED:
        choices = (None, *WEIGHT_PRECISIONS)
        drawn = {output: choices[rng.integers(len(choices))] for _, output, _ in mixed.kernels(content)}
        precision = {output: name for output, name in drawn.items() if name}
    return requantize(content, precision)


def check_runtimes(content):
    """Outputs of the interpreter on random inputs, which CompiledModel must have too; and the inputs.

    Raises:
        RuntimeError: where it has not.
    """
    from tf_reweight.packing import equivalence
    from tf_reweight.tflite import litert
    from tf_reweight.tflite.comparing import compare
    from tf_reweight.tflite.execution import Runner

    inputs = equivalence.random_inputs(content)
    here, there = litert.run(content, inputs, True), Runner(content).compiled_raw(inputs)
    error = compare(here, there)[1]
    if not error <= _SAME:
        raise RuntimeError(f"CompiledModel computes something else than the interpreter: {error:.1e}")
    return here


def accelerated(content):
    """`(rewritten bytes, figures)`.

    Raises:
        RuntimeError: where the rewritten file computes something else.
    """
    from tf_reweight.tflite.acceleration import accelerate
    from tf_reweight.tflite.comparing import compare
    from tf_reweight.tflite.compiled import is_fully_accelerated

    before, made = check_runtimes(content), accelerate(content)
    error = compare(before, check_runtimes(made.content))[1]
    if not error <= _NEAR:
        raise RuntimeError(f"the rewritten file ({', '.join(made.in_float)} in float) computes something else: {error:.1e}")
    if made.whole != is_fully_accelerated(made.content):
        raise RuntimeError(f"CompiledModel and the interpreter disagree: whole is {made.whole} by the list of operations")
    whole = {"whole": is_fully_accelerated(content), "whole_after": made.whole, "rewriting_error": error}
    return made.content, whole


def examine(seed, verify_arm):
    """One graph: a dict with what became of it.

    It has `unmade` in words where the converter or litert-quantizer makes no file that LiteRT runs, so that there is nothing to
    pack, and `wrong` where packing did not go well.
    """
    import keras
    import numpy as np

    from tf_reweight.export import pack_tflite
    from tf_reweight.export.precisions import TABLE
    from tf_reweight.packing import equivalence
    from tf_reweight.tflite import litert

    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    precision = str(rng.choice([*TABLE, _MIXED]))
    row = {"seed": seed, "precision": precision}
    try:
        content = dense_file(precision, rng)
        # Of some files that the converter makes LiteRT has no kernel of an operation in the precision.
        litert.run(content, equivalence.random_inputs(content), False)
    except (ValueError, RuntimeError) as error:
        return row | {"unmade": str(error)[:500]}
    finally:
        keras.backend.clear_session(free_memory=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            given, packed = (pathlib.Path(folder) / name for name in ("given.tflite", "packed.tflite"))
            content, whole = accelerated(content)
            row |= whole
            given.write_bytes(content)
            result = pack_tflite(given, packed, verify_arm=verify_arm)
            sizes = {"num_bytes_before": given.stat().st_size, "num_bytes_after": packed.stat().st_size}
        row |= {**sizes, "num_packed": result.num_packed, "num_kernels": len(result.tensors)}
        if sizes["num_bytes_after"] > sizes["num_bytes_before"]:
            row["wrong"] = "it grew"
    except Exception as error:  # Whatever it is, the other graphs tell more.
        row["wrong"] = f"{type(error).__name__}: {error}"[:500]
    return row


def run(seeds, verify_arm):
    """Yields a row per seed, examined in a process of their own, and in another one behind a crash."""
    left = list(seeds)
    while left:
        flags = ["--verify_arm"] if verify_arm else []
        command = [sys.executable, __file__, *flags, "--seeds", *map(str, left)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            for line in child.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
                    left.pop(0)
        if left:
            yield {"seed": left.pop(0), "wrong": f"the process died, status {child.returncode}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("num", type=int, nargs="?", default=500, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--output", type=pathlib.Path, help="keep one line of JSON per graph here, and go on where it ends")
    parser.add_argument("--verify_arm", action="store_true", help="also run every file on an emulated ARM machine")
    parser.add_argument("--seeds", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seeds:
        for seed in options.seeds:
            print(json.dumps(examine(seed, options.verify_arm)), flush=True)
        return
    seeds = range(options.first, options.first + options.num)
    known = options.output.read_text(encoding="utf-8").splitlines() if options.output and options.output.exists() else []
    rows = {row["seed"]: row for row in map(json.loads, known) if row["seed"] in seeds}
    for row in run([seed for seed in seeds if seed not in rows], options.verify_arm):
        rows[row["seed"]] = row
        if "wrong" in row:
            print(f"seed {row['seed']}: {row['wrong']}", flush=True)
        if options.output:
            with open(options.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    wrong, unmade = (sum(what in row for row in rows.values()) for what in ("wrong", "unmade"))
    packed, kernels, before, after = (
        sum(row.get(name, 0) for row in rows.values())
        for name in ("num_packed", "num_kernels", "num_bytes_before", "num_bytes_after")
    )
    made = len(rows) - unmade
    print(f"{made - wrong} of {made} files right; {packed} of {kernels} kernels packed, {before:,} to {after:,} bytes.")
    whole, after = (sum(row.get(name, False) for row in rows.values()) for name in ("whole", "whole_after"))
    print(f"XNNPACK runs {whole} of them whole as they are made, and {after} once rewritten.")
    print(f"{unmade} graphs became no file in the first place.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
