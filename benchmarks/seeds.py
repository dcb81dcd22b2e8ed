"""One configuration over several seeds: mean and spread of what its last epoch reached and of what its files weigh.

Every seed is a whole run of `tf-reweight compress` in a folder of its own, which a repeated call finds done. The seed sets the
initial weights, the validation split and the order of the batches. Nothing is chosen on the test split.

    python benchmarks/seeds.py --config configs/quickstart.yaml
    python benchmarks/seeds.py --config configs/lenet5_mnist_record.yaml --data_dir DIR --output record.json
"""

import argparse
import json
import pathlib

_FIELDS = (
    ("seed", "<6"), ("dense", ">8"), ("validation", ">11"), ("test", ">8"), ("nonzero / all", ">18"), ("rate", ">7"),
    ("shipped file", "<32"), ("executed", ">9"), ("raw", ">7"), ("zipped", ">8"), ("faster", ">7"),
)  # fmt: skip


def row_of(seed, figures):
    """The figures of one run: its last stage, and its last file against the dense float32 one."""
    last, dense, shipped = figures["stages"][-1], figures["files"][0], figures["files"][-1]
    return {
        "seed": seed,
        "dense_accuracy": figures["stages"][0]["test_accuracy"],
        "validation_accuracy": last["validation_accuracy"],
        "test_accuracy": last["test_accuracy"],
        "num_nonzero": figures["num_nonzero"],
        "num_weights": figures["num_weights"],
        "rate": figures["num_weights"] / figures["num_nonzero"],
        "file": shipped["name"],
        "file_accuracy": shipped["test_accuracy"],
        "raw_ratio": dense["num_bytes"] / shipped["num_bytes"],
        "gzip_ratio": dense["gzip_bytes"] / shipped["gzip_bytes"],
        "latency_ratio": dense["latency_ms"] / shipped["latency_ms"],
        "seconds": sum(stage["seconds"] for stage in figures["stages"]),
    }


def summary(rows):
    """`(mean, standard deviation)` of every number, over the seeds."""
    import numpy as np

    numbers = [name for name, value in rows[0].items() if isinstance(value, (int, float)) and name != "seed"]
    spread = {name: [row[name] for row in rows] for name in numbers}
    return {name: (float(np.mean(v)), float(np.std(v, ddof=1)) if rows[1:] else 0.0) for name, v in spread.items()}


def formatted(row):
    """A row of the printed table."""
    values = (
        row["seed"], f"{row['dense_accuracy']:.2%}", f"{row['validation_accuracy']:.2%}", f"{row['test_accuracy']:.2%}",
        f"{row['num_nonzero']:,} / {row['num_weights']:,}", f"{row['rate']:.1f}x", row["file"], f"{row['file_accuracy']:.2%}",
        f"{row['raw_ratio']:.1f}x", f"{row['gzip_ratio']:.1f}x", f"{row['latency_ratio']:.1f}x",
    )  # fmt: skip
    return " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, required=True, help="a YAML file of `tf-reweight compress`")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as for compress")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the run folders; default runs/<name of the config>-seeds")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows")
    options = parser.parse_args()

    import tf_reweight as tfr

    overrides = list(options.set) + ([f"data.data_dir={options.data_dir}"] if options.data_dir else [])
    name = tfr.workflow.config.load(options.config, overrides).name
    out = options.out or pathlib.Path("runs") / f"{name}-seeds"
    rows = []
    for seed in options.seeds:
        rows.append(row_of(seed, tfr.compress(options.config, out=out / str(seed), overrides=[*overrides, f"seed={seed}"])))
        if options.output:
            content = {"config": name, "overrides": overrides, "rows": rows, "mean_and_spread": summary(rows)}
            options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for row in rows:
        print(formatted(row))
    found = summary(rows)
    print(f"\n{len(rows)} seeds, mean +- standard deviation:")
    for field in ("dense_accuracy", "validation_accuracy", "test_accuracy", "file_accuracy"):
        print(f"  {field:<20} {found[field][0]:.3%} +- {found[field][1] * 100:.3f}")
    for field in ("num_nonzero", "rate", "raw_ratio", "gzip_ratio", "latency_ratio", "seconds"):
        print(f"  {field:<20} {found[field][0]:,.1f} +- {found[field][1]:,.1f}")


if __name__ == "__main__":
    main()
