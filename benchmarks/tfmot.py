"""Ours against tfmot at the same sparsity and epochs: prune + QAT, and prune + cluster + QAT, as executed int8 files.

One dense model per seed is trained in Keras 3 and given to all sides. Each runs in a process of its own, since importing tfmot
turns `tf.keras` into Keras 2. tfmot prunes every layer by its gradual magnitude schedule, then trains with sparsity-preserving
(PQAT) or sparsity- and cluster-preserving QAT (PCQAT). `ours` reweights, prunes the same share of all weights together and
retrains, then `quantize` and `cluster` follow; `gradual` is the same after tfmot's own schedule, to compare what comes after
pruning. All have the same epochs, and a learning rate that falls along a cosine in each training. A third row is the first one
saved, loaded and trained for one epoch more: are its zeros still there? Needs `pip install "tf-reweight[tfmot]"`.

    python benchmarks/tfmot.py --seeds 3 4 5
    python benchmarks/tfmot.py --data fashion_mnist --data_dir DIR --limit 10000 --model ds_cnn
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

_BATCH = 32
_SIDES = ("ours", "gradual", "tfmot")
_PRUNE_RATE, _QAT_RATE = 1e-3, 2e-4
_AGAIN = "prune + QAT, saved, loaded, one epoch"


def data_of(options):
    """The data set, images with a channel axis."""
    import tf_reweight as tfr

    return tfr.data.load(options.data, options.data_dir, limit=options.limit)


def loss_of(module):
    """Cross entropy of logits in the given Keras."""
    return module.losses.SparseCategoricalCrossentropy(from_logits=True)


def train_dense(options, seed, path):
    """Trains the model both sides start from; returns its test accuracy."""
    import keras

    import tf_reweight as tfr

    keras.utils.set_random_seed(seed)
    data = data_of(options)
    model = tfr.data.models.build(options.model, data.input_shape, data.num_classes)
    model.compile(keras.optimizers.Adam(2e-3), loss_of(keras), metrics=["accuracy"])
    model.fit(*data.train, epochs=options.epochs, batch_size=_BATCH, verbose=0)
    model.save(path)
    return float(model.evaluate(*data.test, verbose=0)[1])


def schedule_of(options, data):
    """Arguments of the pruning schedule, which both sides call the same: all is pruned after half of the epochs."""
    steps = -(-len(data.train[0]) // _BATCH) * options.prune_epochs
    return {
        "initial_sparsity": 0.0, "final_sparsity": options.sparsity, "begin_step": 0, "end_step": steps // 2, "frequency": 20,
    }  # fmt: skip


def prune(side, model, data, options):
    """Trains the dense model to `options.sparsity` in `options.prune_epochs`, in one of our two ways."""
    import keras

    import tf_reweight as tfr

    def fit(epochs, *callbacks):
        model.compile(keras.optimizers.Adam(_PRUNE_RATE), loss_of(keras))
        model.fit(*data.train, epochs=epochs, batch_size=_BATCH, verbose=0, callbacks=list(callbacks))

    cosine = tfr.callbacks.CosineDecay(_PRUNE_RATE)
    if side == "gradual":
        schedule = tfr.baselines.PolynomialDecay(**schedule_of(options, data))
        fit(options.prune_epochs, tfr.baselines.GradualMagnitude(schedule), cosine)
        return
    every = max(1, options.prune_epochs // 3)
    tfr.regularize(model, "unstructured", options.strength)
    fit(2 * every, tfr.callbacks.Reweighting(every, 2, learning_rate=_PRUNE_RATE))
    tfr.prune(model, sparsity=options.sparsity)
    fit(options.prune_epochs - 2 * every, cosine)


def figures(content, data):
    """Sizes, zeros and accuracy of a file's bytes, as executed; `packed` is its size once zeros are stored sparsely."""
    import tf_reweight as tfr
    from tf_reweight.tflite.inspection import summarize

    summary = summarize(content, "file")
    row = {"bytes": len(content), "packed": tfr.export.pack(content).num_bytes_after, "gzip": summary.gzip_bytes}
    row |= {"sparsity": summary.sparsity, "accuracy": tfr.export.evaluate_tflite(content, *data.test)}
    return row | {"float_ops": sorted(set(summary.float_ops))}


def run_ours(side, options, seed, path):
    """Figures of our two schemes after one way of pruning, by name."""
    import keras

    import tf_reweight as tfr

    data, rows = data_of(options), {}
    for scheme, clusters in (("prune + QAT", None), ("prune + cluster + QAT", options.clusters)):
        keras.utils.set_random_seed(seed)
        model = keras.saving.load_model(path)
        prune(side, model, data, options)
        qat = tfr.quantize(model)
        tfr.quantization.calibrate(qat, data.representative(256))
        if clusters is not None:
            tfr.quantization.cluster(qat, clusters)
        qat.compile(keras.optimizers.Adam(_QAT_RATE), loss_of(keras))
        callbacks = [tfr.quantization.FreezeRanges(max(options.qat_epochs - 1, 0)), tfr.callbacks.CosineDecay(_QAT_RATE)]
        qat.fit(*data.train, epochs=options.qat_epochs, batch_size=_BATCH, verbose=0, callbacks=callbacks)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "model.tflite")
            record = tfr.export_tflite(qat, file, "int8", verify_data=data.validation[0])
            rows[scheme] = figures(file.read_bytes(), data) | {"agreement": record.verification.top1_agreement}
        if clusters is None:
            rows[_AGAIN] = loaded_again(qat, data)
    return rows


def loaded_again(qat, data):
    """Figures of one of our models after save, load and another epoch."""
    import keras

    import tf_reweight as tfr

    with tempfile.TemporaryDirectory() as folder:
        path, file = pathlib.Path(folder, "qat.keras"), pathlib.Path(folder, "model.tflite")
        qat.save(path)
        again = keras.saving.load_model(path)
        again.compile(keras.optimizers.Adam(_QAT_RATE), loss_of(keras))
        again.fit(*data.train, epochs=1, batch_size=_BATCH, verbose=0)
        record = tfr.export_tflite(again, file, "int8", verify_data=data.validation[0])
        return figures(file.read_bytes(), data) | {"agreement": record.verification.top1_agreement}


def run_tfmot(options, seed, path):
    """Figures of tfmot's two schemes, by name."""
    import keras

    from tf_reweight.baselines.tf_keras import to_tf_keras

    model = to_tf_keras(keras.saving.load_model(path))
    import tensorflow_model_optimization as tfmot
    import tf_keras

    # Where tfmot's own guide imports it from.
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    sparsity, clustering, quantization = (
        tfmot.sparsity.keras, tfmot.clustering.keras, tfmot.quantization.keras
    )  # fmt: skip
    data, rows = data_of(options), {}
    tf_keras.utils.set_random_seed(seed)
    schedule = sparsity.PolynomialDecay(**schedule_of(options, data))
    pruned = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    steps = -(-len(data.train[0]) // _BATCH)
    cosine = tf_keras.optimizers.schedules.CosineDecay
    pruned.compile(tf_keras.optimizers.Adam(cosine(_PRUNE_RATE, steps * options.prune_epochs)), loss_of(tf_keras))
    update = sparsity.UpdatePruningStep()
    pruned.fit(*data.train, epochs=options.prune_epochs, batch_size=_BATCH, verbose=0, callbacks=[update])
    stripped = sparsity.strip_pruning(pruned)
    for scheme in ("prune + QAT", "prune + cluster + QAT"):
        start = tf_keras.models.clone_model(stripped)
        start.set_weights(stripped.get_weights())
        schemes = tfmot.experimental.combine
        chosen = schemes.Default8BitPrunePreserveQuantizeScheme()
        if "cluster" in scheme:
            init = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
            clustered = cluster.cluster_weights(
                start, number_of_clusters=options.clusters, cluster_centroids_init=init, preserve_sparsity=True
            )
            start = clustering.strip_clustering(clustered)
            chosen = schemes.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
        qat = quantization.quantize_apply(quantization.quantize_annotate_model(start), chosen)
        qat.compile(tf_keras.optimizers.Adam(cosine(_QAT_RATE, steps * options.qat_epochs)), loss_of(tf_keras))
        qat.fit(*data.train, epochs=options.qat_epochs, batch_size=_BATCH, verbose=0)
        if "cluster" in scheme:
            qat = clustering.strip_clustering(qat)
        content = converted(qat)
        rows[scheme] = figures(content, data) | {"agreement": agreement(content, qat, data.validation[0])}
        if "cluster" not in scheme:
            rows[_AGAIN] = loaded_again_by_tfmot(qat, data)
    return rows


def loaded_again_by_tfmot(qat, data):
    """Figures of one of tfmot's models after save, load in its scope, and another epoch."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    with tempfile.TemporaryDirectory() as folder:
        qat.save(f"{folder}/qat.h5")
        with tfmot.quantization.keras.quantize_scope():
            again = tf_keras.models.load_model(f"{folder}/qat.h5", compile=False)
    again.compile(tf_keras.optimizers.Adam(_QAT_RATE), loss_of(tf_keras))
    again.fit(*data.train, epochs=1, batch_size=_BATCH, verbose=0)
    content = converted(again)
    return figures(content, data) | {"agreement": agreement(content, again, data.validation[0])}


def converted(model):
    """The int8 file of a tfmot model, as tfmot's guide makes it; one example at a time."""
    import tensorflow as tf

    serve = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32, name="image")
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def agreement(content, model, x):
    """Share of inputs on which a file and its Keras model name one class."""
    import numpy as np

    from tf_reweight.export import Runner

    return float(np.mean(Runner(content)([x])[0].argmax(-1) == np.asarray(model(x, training=False)).argmax(-1)))


def run_in_process(side, seed, path, options):
    """The rows of one side from a fresh process."""
    own = ("seeds", "output", "child")
    flags = [(name, value) for name, value in vars(options).items() if name not in own and value is not None]
    given = [part for name, value in flags for part in (f"--{name}", str(value))]
    command = [sys.executable, __file__, *given, "--child", side, str(seed), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"failed": {"error": last[0]}}
    return json.loads(done.stdout.splitlines()[-1])


def shown(row):
    """A row as one line of text."""
    return "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data_dir")
    parser.add_argument("--limit", type=int, help="examples; default all")
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--sparsity", type=float, default=0.8, help="of all kernels; the gradual schedule prunes each alike")
    parser.add_argument("--strength", type=float, default=1e-4, help="of our reweighted penalty")
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15, help="dense, shared by all sides")
    parser.add_argument("--prune_epochs", type=int, default=10)
    parser.add_argument("--qat_epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, seed, path = options.child
        made = run_tfmot(options, int(seed), path) if side == "tfmot" else run_ours(side, options, int(seed), path)
        print(json.dumps(made))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            path = pathlib.Path(folder, "dense.keras")
            dense = train_dense(options, seed, path)
            for side in _SIDES:
                for scheme, row in run_in_process(side, seed, path, options).items():
                    rows.append({"seed": seed, "side": side, "scheme": scheme, "dense": dense, **row})
                    print(shown(rows[-1]), flush=True)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
