"""Quantization levels by the reweighted penalty against plain fake-quantization and rounding, at equal epochs, on digits.

Each net is trained in float once per seed; from there the weights reach 2, 3 or 4 bits in three ways: rounded, trained on
with rounded numbers (`quantize`), or trained on with the penalty towards levels and then moved to them. All three become an
integer file with 8-bit activations, which is run on the test set.

    python benchmarks/levels.py --seeds 3
"""

import argparse
import json
import pathlib
import tempfile

_BATCH = 32


def compiled(model, learning_rate):
    """The model, compiled for labels and logits."""
    import keras

    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def executed(model, bits, data):
    """Test accuracy of a float model's file with its kernels rounded to so many bits."""
    from tf_reweight import quantization

    made = quantization.quantize(model, bits)
    quantization.calibrate(made, data.representative(256))
    return run(made, data)


def run(quantized, data):
    """Test accuracy of a quantized model's executed file."""
    import tf_reweight as tfr

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        tfr.export_tflite(quantized, path, "int8", verify_data=data.validation[0], tolerance=1e3)
        return tfr.export.evaluate_tflite(path, *data.test)


def measure(bits, seed, dense, data, options):
    """One row: test accuracy of the three ways."""
    import keras

    from tf_reweight import quantization
    from tf_reweight.penalties.reweighting import Reweighting

    row = {"bits": bits, "seed": seed, "rounded": executed(dense, bits, data)}
    keras.utils.set_random_seed(seed)
    aware = compiled(quantization.quantize(dense, bits), options.learning_rate)
    freeze = quantization.FreezeRanges(max(options.epochs - 1, 0))
    aware.fit(*data.train, epochs=options.epochs, batch_size=_BATCH, verbose=0, callbacks=[freeze])
    row["fake_quant"] = run(aware, data)
    for strength in options.strengths:
        keras.utils.set_random_seed(seed)
        model = keras.models.clone_model(dense)
        model.set_weights(dense.get_weights())
        quantization.regularize_levels(model, bits, strength)
        reweighting = Reweighting(every=max(options.epochs // 4, 1))
        compiled(model, options.learning_rate).fit(
            *data.train, epochs=options.epochs, batch_size=_BATCH, verbose=0, callbacks=[reweighting]
        )
        moved = quantization.snap(model)
        row[f"levels_{strength:g}"] = executed(model, bits, data)
        row[f"moved_{strength:g}"] = sum(moved.values()) / len(moved)
    return row


def main():
    import keras
    import numpy as np

    import tf_reweight as tfr

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--strengths", type=float, nargs="+", default=[1e-4, 1e-3], help="of the penalty; each is a column")
    parser.add_argument("--epochs", type=int, default=12, help="of each way, after the float training")
    parser.add_argument("--float-epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    options = parser.parse_args()
    data = tfr.data.load("digits")
    rows = []
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        dense = compiled(tfr.data.models.build(options.model, data.input_shape, data.num_classes), 2e-3)
        dense.fit(*data.train, epochs=options.float_epochs, batch_size=_BATCH, verbose=0)
        for bits in options.bits:
            rows.append(measure(bits, seed, dense, data, options))
            print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for bits in options.bits:
        same = [row for row in rows if row["bits"] == bits]
        for key in [key for key in same[0] if key not in ("bits", "seed")]:
            values = [row[key] for row in same]
            print(f"{bits} bits, {key}: {np.mean(values):.4f} +- {np.std(values):.4f}")


if __name__ == "__main__":
    main()
