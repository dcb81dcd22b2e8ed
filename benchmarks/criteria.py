"""What one-shot pruning of single kernels should rank by: each criterion at the same sparsities, right after the cut and later.

One dense model per net and seed, trained on digits. It is pruned at once by each criterion. All are given the same training
examples, which refresh the statistics of BatchNormalization; `"taylor"` reads their labels as well. Then it trains some epochs.
Accuracies are of validation examples, so that a default can be chosen from them.

    python benchmarks/criteria.py
    python benchmarks/criteria.py --nets small_cnn --seeds 0 --structures unstructured     # a minute
"""

import argparse
import json
import pathlib

import keras
import numpy as np

import tf_reweight as tfr

CRITERIA = ("magnitude", "relative", "lamp", "taylor")
STRUCTURES = {
    "unstructured": "unstructured", "block": {"name": "block", "shape": [4, 4]}, "kernel": "kernel", "column": "column",
    "filter": "filter",
}  # fmt: skip


def compiled(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def rows_of(net, seed, options):
    """One row per structure, sparsity and criterion."""
    keras.utils.set_random_seed(seed)
    data = tfr.data.load("digits", seed=seed)
    dense = compiled(tfr.data.models.build(net, data.input_shape, data.num_classes), options.learning_rate)
    dense.fit(*data.train, epochs=options.dense, verbose=0)
    for structure in options.structures:
        for sparsity in options.sparsities:
            for criterion in CRITERIA:
                model = compiled(keras.models.clone_model(dense), options.learning_rate)
                model.set_weights(dense.get_weights())
                report = tfr.prune(model, STRUCTURES[structure], sparsity=sparsity, criterion=criterion, data=data.train)
                after_cut = model.evaluate(*data.validation, verbose=0)[1]
                keras.utils.set_random_seed(seed + 1)
                decay = tfr.callbacks.CosineDecay(options.learning_rate)
                model.fit(*data.train, epochs=options.epochs, verbose=0, callbacks=[decay])
                trained = model.evaluate(*data.validation, verbose=0)[1]
                row = {"net": net, "seed": seed, "structure": structure, "sparsity": sparsity, "criterion": criterion}
                yield {**row, "removed": report.sparsity, "after_cut": after_cut, "trained": trained}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["small_cnn", "bn_cnn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.6, 0.9])
    parser.add_argument("--dense", type=int, default=15, help="epochs of the dense model")
    parser.add_argument("--epochs", type=int, default=5, help="epochs after the cut")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows")
    options = parser.parse_args()
    rows = []
    for net in options.nets:
        for seed in options.seeds:
            rows += rows_of(net, seed, options)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("net        structure     removed  criterion   after the cut   trained on   (means over seeds, validation)")
    for key in dict.fromkeys((row["net"], row["structure"], row["sparsity"], row["criterion"]) for row in rows):
        found = [r for r in rows if (r["net"], r["structure"], r["sparsity"], r["criterion"]) == key]
        cut, trained = (np.mean([row[name] for row in found]) for name in ("after_cut", "trained"))
        print(f"{key[0]:<10} {key[1]:<13} {key[2]:>7.0%}  {key[3]:<10} {cut:>13.1%} {trained:>12.1%}")


if __name__ == "__main__":
    main()
