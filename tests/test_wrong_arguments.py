"""What a hurried user hands to public functions by mistake: it is refused in our words, or means what it can only mean."""

import copy
import dataclasses
import inspect
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_reweight as tfr
from tf_reweight import baselines, callbacks, checks, coupling, export, quantization, shrinking, structures
from tf_reweight.reports import tables
from tf_reweight.reports.sensitivity import sensitivity

X, Y = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32"), np.arange(12) % 4


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu", name="conv"), keras.layers.BatchNormalization(name="norm")]
    net = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return net


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "a.tflite"
    tfr.export_tflite(model, path, verify_data=X)
    return path


COLUMN, ONE_HOT = Y[:, None], np.eye(4)[Y]


@pytest.mark.parametrize("y", [COLUMN, ONE_HOT, Y[:5], Y[0], np.array(["a"] * 12), X, []])
def test_an_accuracy_is_of_one_number_for_each_example(y, model, path):
    """Labels (num, 1), as CIFAR's come, were compared all with all, and gave a number that was no accuracy."""
    for measure in (
        lambda: tfr.workflow.accuracy(model, X, y), lambda: export.evaluate_tflite(path, X, y),
        lambda: export.precision_sensitivity(model, X, y, ["float16"]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Received: "):
            measure()


def test_an_accuracy_is_the_same_from_all(model, path):
    expected = float(np.mean(model.predict(X, verbose=0).argmax(-1) == Y))
    for y in (Y, list(Y), Y.astype("float32"), Y.astype("uint8")):
        assert export.evaluate_tflite(path, X, y) == expected
    assert tfr.workflow.accuracy(model, X, Y) == export.evaluate_tflite(path, list(X), Y) == expected
    assert export.precision_sensitivity(model, X, Y, ["float16"]).accuracy == expected


@pytest.mark.parametrize("labels", ["a.txt", "abcd", b"abcd", 4, np.array("abcd"), True])
def test_a_text_is_no_list_of_labels(labels, path, tmp_path):
    """Each of its characters was the name of a class where there were as many, as for the path of a file of labels."""
    with pytest.raises(TypeError, match="Labels must be names, one for each class. Received: labels="):
        export.bundle(path, tmp_path / "a.zip", labels=labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_have_no_rank(value):
    """One NaN was a filter like others, and decided in silence which of them stayed."""
    for work in (
        lambda net: tfr.prune(net, "filter", sparsity=0.5), lambda net: tfr.prune_groups(net, sparsity=0.5),
        lambda net: quantization.cluster(net), tfr.quantize,
    ):  # fmt: skip
        net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Conv2D(4, 3)])
        kernel = keras.ops.convert_to_numpy(net.layers[0].kernel).copy()
        kernel[0, 0, 0, 1] = value
        net.layers[0].kernel.assign(kernel)
        with pytest.raises(ValueError, match="Every weight must be finite.*Received: weights="):
            work(net)
        np.testing.assert_array_equal(net.layers[0].kernel, kernel)


def test_a_model_without_kernels_is_told_so():
    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="Received: model='.*'. It has no kernels.$"):
        tfr.prune(net, "filter", sparsity=0.5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_weights_of_half_precision_are_quantized_in_single(policy):
    """Keras' words about a convolution of two types were the answer."""
    half = {"dtype": policy}
    layers = [keras.layers.Conv2D(4, 3, **half), keras.layers.BatchNormalization(**half), keras.layers.ReLU(**half)]
    net = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(**half), keras.layers.Dense(4, **half)])
    tfr.prune(net, "unstructured", sparsity=0.5)
    found = tfr.quantize(net)
    quantization.calibrate(found, X)
    expected = np.asarray(keras.ops.cast(net(X), "float32"))
    assert np.abs(np.asarray(found(X)) - expected).max() < 0.05 * np.abs(expected).max()
    found.compile("adam", "mse")
    found.fit(X, expected, verbose=0)
    assert {w.dtype for w in found.trainable_weights} == {"float32"}
    zeros, size = map(sum, zip(*tfr.sparsity(tfr.strip_quantization(found)).values()))
    assert zeros >= 0.49 * size


def test_one_path_is_a_list_of_one(path, tmp_path):
    assert len(export.benchmark(str(path), num_runs=1, warmup=0).rows) == 1
    (tmp_path / "notes.txt").write_text("x")
    export.bundle(path, tmp_path / "a.zip", extra=tmp_path / "notes.txt")


def test_numbers_of_numpy_are_threads_and_more_examples_than_there_are_are_all(model, path):
    for threads in (2, np.int64(2), None):
        assert export.evaluate_tflite(path, X, Y, num_threads=threads) == export.evaluate_tflite(path, X, Y)
    assert export.benchmark(path, num_threads=np.int64(1), num_runs=1, warmup=0).num_threads == 1
    found = export.explain(model, path, X, num_examples=10**40)
    assert found.num_examples == len(X) and found.to_dict() == export.explain(model, path, X, num_examples=len(X)).to_dict()


HUGE = 10**400
TWO = X[..., [0, 0]]
WIDE = np.pad(X, ((0, 0), (0, 0), (0, 4), (0, 0)))
REPORT = export.PrecisionReport(100, None, 1, (), ())
BAD = [
    (lambda m, p: tfr.compress(m, (TWO, Y), budget="macs=0.5"), ValueError, "must take the data's inputs.*split='train'"),
    (lambda m, p: tfr.compress(m, (X, Y), (TWO, Y), budget="macs=0.5"), ValueError, "data's inputs.*split='validation'"),
    (lambda m, p: tfr.compress(m, (X.astype(str), Y), budget="macs=0.5"), TypeError, "`train` must hold numbers.*and not text"),
    (lambda m, p: tfr.compress(m, (WIDE, Y), budget="macs=0.5"), ValueError, r"of the shape \(8, 8, 1\) for.*split='train'"),
    (lambda m, p: tfr.compress(m, (X, Y), test=(WIDE, Y)), ValueError, r"of the shape \(8, 8, 1\) for .*split='test'"),
    (lambda m, p: tfr.compress(m, (X[:, :, 0], Y)), ValueError, "must take the data's inputs.*split='train'"),
    (lambda m, p: tfr.compress(m, (X, Y, np.array(["a"] * 12))), TypeError, "sample weights of `train` must be numbers"),
    (lambda m, p: tfr.compress(m), ValueError, "own needs `train`"),
    (lambda m, p: tfr.compress(m, config={"data": {"limit": 100}}), ValueError, "own needs `train`"),
    (lambda m, p: tfr.compress({}, m), ValueError, "own needs `train`"),
    (lambda m, p: tfr.compress(tfr.workflow.config.load({}), m), ValueError, "own needs `train`"),
    (lambda m, p: tfr.sweep(m), ValueError, "own needs `train`"),
    (lambda m, p: tfr.workflow.plan({}, m), ValueError, "own needs `train`"),
    (lambda m, p: tfr.workflow.plan({"model": {"name": "mine.keras"}}), ValueError, "own needs `train`"),
    (lambda m, p: tfr.workflow.plan_by_names(overrides=["model.name=mine.py:net"]), ValueError, "own needs `train`"),
    (lambda m, p: export.export_mixed(m, p, float("nan"), X), ValueError, "`max_bytes` must be a finite number >= 1"),
    (lambda m, p: export.export_mixed(m, p, None, X), ValueError, "`max_bytes` must be a finite number >= 1"),
    (lambda m, p: export.export_mixed(m, p, 1e6, X, precisions=[]), ValueError, "`precisions` must be a list of names"),
    *[
        (lambda m, p, value=value: export.export_mixed(m, p, 1e6, None, tolerance=value), ValueError, "`tolerance` must be a ")
        for value in ("x", np.nan, np.inf, -1, 0, True, [0.1])
    ],
    *[
        (lambda m, p, value=value: export.export_mixed(m, p, 1e6, None, keep=value), TypeError, "`keep` must be a list of ")
        for value in (None, 5, "a", [1], np.array([1, 2]), [np.array(["a"])], {"a": 1})
    ],
    (lambda m, p: export.choose_precisions(REPORT, 5, "abc"), TypeError, "`keep` must be a list of names"),
    (lambda m, p: export.choose_precisions(REPORT, np.nan), ValueError, "`max_bytes` must be a finite number >= 1"),
    (lambda m, p: export.choose_precisions(None, 5), TypeError, "`report` must be a PrecisionReport"),
    (lambda m, p: export.precision_sensitivity(m, X, precisions=5), ValueError, "`precisions` must be a list of names"),
    (lambda m, p: export.precision_sensitivity(5, X), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: export.benchmark(p, num_runs=HUGE), ValueError, "`num_runs` must be an int in"),
    (lambda m, p: export.benchmark(p, warmup=HUGE), ValueError, "`warmup` must be an int in"),
    (lambda m, p: tfr.prune(m, "unstructured", threshold=HUGE), ValueError, "`threshold` must be a number >= 0"),
    (lambda m, p: tfr.prune(m, HUGE), TypeError, "second argument of `prune` is a structure"),
    (lambda m, p: tfr.prune(m, "filter", threshold=0.1, criterion="lamp"), ValueError, "`criterion` ranks where an amount"),
    (lambda m, p: tfr.prune_groups(m, criterion="kernel"), ValueError, "`criterion` ranks where an amount"),
    (lambda m, p: tfr.prune_groups(m, budget="macs=0.5", multiple_of=HUGE), ValueError, "stay a multiple of"),
    (lambda m, p: tfr.compress(m, (X, Y), overrides=[0.5]), TypeError, "`overrides` must be a list of"),
    (lambda m, p: tfr.compress(m, (X, Y), overrides=None), TypeError, "`overrides` must be a list of"),
    (lambda m, p: tfr.compress(m, (X, Y), console=3), TypeError, "`console` must be a rich console"),
    (lambda m, p: tfr.regularize(m, "filter", 1e300), ValueError, "`strength` must be a finite number .* that float32 holds"),
    (lambda m, p: tfr.compress(m, (X, Y), config={"task": {"optimizer": "sgd"}}), ValueError, "`task` must name a loss"),
    (lambda m, p: tfr.compress(m, (X, Y), config={"task": {"metrics": ["mae"]}}), ValueError, "`task` must name a loss"),
    (lambda m, p: export.bundle(p, None), TypeError, "`out` must be a path"),
    (lambda m, p: export.bundle(p, "a.zip", extra=[3]), TypeError, "`extra` must be a path"),
    (lambda m, p: export.bundle(p, "a.zip", preprocessing=b"grey"), TypeError, "`preprocessing` must be text"),
    (lambda m, p: export.bundle(p, "a.zip", header="no"), TypeError, "`header` must be a bool"),
    (lambda m, p: export.annotate(p.read_bytes(), name=3), TypeError, "`name` must be text"),
    (lambda m, p: export.annotate(p.read_bytes(), description=3), TypeError, "`description` must be text"),
    (lambda m, p: export.benchmark(None), TypeError, "`paths` must be a path"),
    (lambda m, p: export.check_file(p, agrees_with=str(p), data=X), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: export.check_file(p, shapes=np.array([1, 7, 8, 1])), ValueError, "must fit"),
    (lambda m, p: export.check_file(p, shapes={1, 8}), ValueError, "must fit"),
    (lambda m, p: quantization.is_quantized("m.keras"), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: quantization.simplify(None), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: quantization.freeze(None), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: quantization.calibrate(keras.Sequential, X), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: shrinking.compare(m, None, [X]), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: quantization.keep_clusters(m, "16"), ValueError, "`max_values` must be an int >= 1"),
    (lambda m, p: tfr.workflow.accuracy(None, X, Y), TypeError, "`model` must be a Keras 3 model"),
    (lambda m, p: tfr.prune(m, [], budget="weights=0.5"), ValueError, "`structure` must name one at least"),
    (lambda m, p: tfr.prune(m, "filter", sparsity=0.5, data=range(9)), ValueError, "`data` must yield whole batches"),
    (lambda m, p: tfr.prune(m, "filter", sparsity=0.5, data=lambda: "no"), ValueError, "`data` must yield whole batches"),
    (lambda m, p: tfr.refresh_statistics(m, X, 3), ValueError, "`y` must have a label for each example"),
    (lambda m, p: tfr.refresh_statistics(m, X, []), ValueError, "`y` must have a label for each example"),
    (lambda m, p: tfr.regularize(m, "filter", price=np.ones(2)), ValueError, "`price` must be a finite number > 0"),
    (lambda m, p: tfr.regularize(m, "filter", price="sise"), ValueError, "Did you mean 'size'"),
    (lambda m, p: tfr.regularize(m, "filter", budget="weights=0.5", price=np.ones(2)), ValueError, "beside a budget"),
    (lambda m, p: tfr.regularize(m, "filter", penalty=np.ones(2)), (TypeError, ValueError), "penalty"),
    (lambda m, p: tfr.regularize_coupled(m, price=np.ones(2)), ValueError, "`price` must be a finite number > 0"),
    (lambda m, p: callbacks.BudgetProximal(survivors="all"), ValueError, "`survivors` must be in"),
    (lambda m, p: callbacks.CosineDecay(float("inf")), ValueError, "`learning_rate` must be a finite number > 0"),
    (lambda m, p: callbacks.CosineDecay(True), ValueError, "`learning_rate` must be a finite number > 0"),
    (lambda m, p: callbacks.CosineDecay(0.1, "2"), ValueError, "`warmup` must be a finite number >= 0"),
    (lambda m, p: callbacks.CosineDecay(0.1, -1), ValueError, "`warmup` must be a finite number >= 0"),
    (lambda m, p: callbacks.Reweighting(learning_rate=float("inf")), ValueError, "`learning_rate` must be a finite number > 0"),
    (lambda m, p: baselines.ConstantSparsity(0.5, 0, np.array([1, 2])), ValueError, "`end_step` must be an int"),
    (lambda m, p: coupling.Coupled(2.5), ValueError, "`num_groups` must be an int >= 1"),
    (lambda m, p: coupling.CoupledBudgeted(-1, "macs=0.5"), ValueError, "`num_groups` must be an int >= 1"),
    (lambda m, p: structures.NOfM(axis=["in"]), ValueError, "Expected a known axis"),
    (lambda m, p: structures.Head(0), ValueError, "`num_heads` must be an int >= 1"),
    (lambda m, p: structures.Head(2, "left"), ValueError, "Expected a known axis"),
    (lambda m, p: structures.Pattern(None), TypeError, "`positions` must be a name or lists"),
    (lambda m, p: structures.Pattern([0, 1]), ValueError, "needs at least one position"),
    (lambda m, p: structures.Pattern([[0.9, 1]]), ValueError, "needs at least one position"),
    *[(lambda m, p, value=value: tfr.detach(value), TypeError, "`model` must be a Keras 3 model") for value in (None, "a", 5)],
    *[
        (lambda m, p, work=work: work(m, m), TypeError, "must hold examples. Received: .*Sequential name=")
        for work in (
            lambda m, data: tfr.quantize(m, data=data), lambda m, data: tfr.shrink(m, data=data),
            lambda m, data: tfr.shrink(m, inputs=data), lambda m, data: tfr.prune(m, "filter", sparsity=0.5, data=data),
            lambda m, data: tfr.prune_groups(m, sparsity=0.5, data=data), tfr.refresh_statistics, tfr.compress,
            lambda m, data: quantization.calibrate(tfr.quantize(m), data),
        )
    ],
    (lambda m, p: tfr.shrink(m, data=m.layers[0]), TypeError, "must hold examples"),
    (lambda m, p: tfr.shrink(m, data=lambda x: x), TypeError, "`data` must hold examples, or be a function that makes"),
    (lambda m, p: tfr.compress(m, lambda x: x), TypeError, "`train` must hold examples, or be a function that makes"),
    *[
        (lambda m, p, work=work, price=price: work(m, price), ValueError, words)
        for work in (lambda m, price: tfr.regularize(m, price=price), lambda m, price: tfr.regularize_coupled(m, price=price))
        for price, words in (
            (int, "`price` must be a number, a name, or a function of a .*; it raised TypeError.*Received: price=<class"),
            (lambda: 1, "it raised TypeError"), (lambda a: -1, "`price` must be a finite number > 0. Received: price=-1"),
        )
    ],
    *[
        (lambda m, p, work=work, long=long: work(m, long), ValueError, "must be a path that can be; the system says: File name")
        for long in ("a" * 300 + ".tflite", "b/" * 3000 + "a.tflite")
        for work in (
            lambda m, path: export.inspect_tflite(path), lambda m, path: export.pack_tflite(path, "b.tflite"),
            lambda m, path: export.check_file(path), lambda m, path: export.explain(m, path, X),
            lambda m, path: export.evaluate_tflite(path, X, Y), lambda m, path: export.benchmark([path]),
            lambda m, path: export.bundle(path, "a.zip"), lambda m, path: export.delegation(path),
            lambda m, path: export.Runner(path), lambda m, path: tfr.data.load(path), lambda m, path: tfr.compress(path),
            lambda m, path: tfr.compress(m, (X, Y), config=path), lambda m, path: tfr.data.models.load(f"{path}.keras"),
        )
    ],
    (lambda m, p: tfr.export_tflite(m, "b/" * 3000 + "a.tflite"), ValueError, "`path` must be a path that can be"),
    (lambda m, p: export.bundle(p, "a.zip", extra="a" * 300), ValueError, "`extra` must be a path that can be"),
    (lambda m, p: export.bundle(p, "a" * 300 + ".zip"), ValueError, "`out` must be a path that can be"),
    (lambda m, p: export.check_file(p, agrees_with=m, data=X, mode=np.array([1, 2])), ValueError, "Expected a known mode"),
    (lambda m, p: export.annotate(p.read_bytes(), name=None), TypeError, "`name` must be text"),
    (lambda m, p: export.evaluate_tflite(p, X, Y, num_threads=10**40), ValueError, "`num_threads` must be an int in 1..1024"),
    (lambda m, p: export.Runner(p, num_threads=0), ValueError, "`num_threads` must be an int in 1..1024"),
    (lambda m, p: export.apk_size(None), ValueError, "`num_bytes` must be an int >= 0"),
    (lambda m, p: export.apk_size(9, "a"), ValueError, "`alignment` must be an int >= 1"),
    (lambda m, p: export.apk_size(9, name=None), TypeError, "`name` must be text"),
    *[
        (lambda m, p, work=work, value=value: work(value), TypeError, "Expected the bytes of a .tflite")
        for work in (export.gzip_size, export.sizes_of) for value in (None, 5, "a.tflite", [1])
    ],
    (lambda m, p: structures.Pattern("circles", 3), ValueError, "`kernel_size` must be two positive integers"),
]  # fmt: skip


@pytest.mark.parametrize("call, kind, words", BAD, ids=map(str, range(len(BAD))))
def test_it_is_refused_before_any_work(call, kind, words, model, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = model.get_weights()
    with pytest.raises(kind, match=words) as caught:
        call(model, path)
    assert str(caught.value).count("Received: ") == 1 and not list(tmp_path.iterdir())
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights())) and not tfr.detach(model)


# Arguments are useless beyond the model: whether a function is being traced is looked at first.
IN_A_FUNCTION = (
    tfr.detach, tfr.hold_groups, tfr.keep_zeros, tfr.prune, tfr.prune_groups, tfr.quantize, tfr.regularize,
    tfr.regularize_coupled, tfr.release, tfr.shrink, tfr.sparsity, tfr.strip, tfr.strip_quantization, tfr.compress, tfr.sweep,
    quantization.cluster, quantization.keep_clusters, quantization.simplify, export.make_arm_eligible,
    lambda model: tfr.export_tflite(model, "never.tflite"), lambda model: tfr.refresh_statistics(model, X),
    lambda model: quantization.calibrate(model, X), lambda model: export.explain(model, "never.tflite", X),
    lambda model: export.export_mixed(model, "never.tflite", 9, X), lambda model: shrinking.compare(model, model, X),
    lambda model: export.precision_sensitivity(model, X), lambda model: sensitivity(model, (X, X)), tables.model_report,
)  # fmt: skip


def test_what_needs_values_says_so_inside_a_function_of_tensorflow_and_changes_nothing():
    """`regularize` had left its penalties on the model."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    before = [(weight.numpy(), weight.constraint, weight.regularizer) for weight in net.weights]

    def traced():
        for call in IN_A_FUNCTION:
            with pytest.raises(ValueError, match="Received: eagerly=False. Call it eagerly, outside of tf.function."):
                call(net)
        with tf.init_scope():  # which is eager
            tfr.sparsity(net)

    tf.function(traced, autograph=False)()
    for (value, *parts), weight in zip(before, net.weights, strict=True):
        assert (value == weight.numpy()).all() and parts == [weight.constraint, weight.regularizer]


def test_a_tensor_is_no_path(model, path):
    """To compare it with an empty text is TensorFlow's to refuse, in words of its own."""
    for call in (tfr.inspect_tflite, lambda it: tfr.pack_tflite(path, it), lambda it: tfr.pack_tflite(it, "never.tflite"),
                 lambda it: tfr.export_tflite(model, it), lambda it: tfr.compress(model, (X, Y), out=it)):  # fmt: skip
        for value in (tf.constant(0.5), np.zeros(2)):
            with pytest.raises(TypeError, match="` must be a path. Received: .* Pass a str or a Path."):
                call(value)


def test_entries_that_a_mask_hides_are_refused(model, path):
    hidden = np.ma.masked_greater(X, 0)
    for call in (
        lambda: tfr.compress(model, (hidden, Y)), lambda: tfr.compress(model, (X, np.ma.masked_equal(Y, 1))),
        lambda: tfr.compress(model, (X, Y, np.ma.masked_equal(np.ones(len(X)), 1))),
        lambda: tfr.compress(model, (X, Y), (hidden, Y)), lambda: tfr.refresh_statistics(model, hidden),
        lambda: tfr.export_tflite(model, path.with_name("b.tflite"), verify_data=hidden),
        lambda: tfr.data.splits.arrays("train", hidden, Y),
    ):  # fmt: skip
        told = "`(train|validation|x|verify_data)` must hold arrays without a mask. Received: masked=[0-9]+. Fill them in"
        with pytest.raises(ValueError, match=told):
            call()
    checks.check_unmasked(np.ma.masked_greater(X, 1e9), "x")  # nothing is hidden


def test_a_quantity_that_budgets_have_not_is_told_with_the_nearest():
    with pytest.raises(TypeError, match="known quantity of a budget. Received: quantity='mac'. Did you mean 'macs'"):
        tfr.Budget(mac=0.5)
    with pytest.raises(TypeError, match="Received: quantity='milliseconds'. .*latency_ms"):
        tfr.Budget(milliseconds=1)
    assert "macs" in inspect.signature(tfr.Budget).parameters
    budget = tfr.Budget(macs=0.5)
    assert copy.deepcopy(budget) == dataclasses.replace(budget, macs=0.5) == pickle.loads(pickle.dumps(budget)) == budget
