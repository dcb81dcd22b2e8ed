"""Following the dense model: any task's outputs, each by what it is trained for, with all weights of the loss."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tests import tasks
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import task
from tf_reweight.workflow.distillation import Distilled
from tf_reweight.workflow.following import followed

L = keras.layers
TRAINER = Distilled(0.3, 3.0)


# The simplest and what has most parts, in compiled steps: two steps are made sooner than compiled.
COMPILED = (tasks.integer_labels, tasks.two_outputs)


def taught(make, **options):
    """A model with a teacher of other weights beside it, compiled as it was; its inputs and labels."""
    model, x, y = make()
    model.run_eagerly = make not in COMPILED
    known, teacher = task.of_model(model), keras.models.clone_model(model)
    trainee = TRAINER.taught(model, teacher, followed(known, model, model.predict(x, verbose=0)))
    known.compile(trainee, 0.01)
    trainee(x)
    return trainee, x, y, known


@pytest.mark.parametrize("make", tasks.KINDS, ids=lambda make: make.__name__)
def test_there_is_nothing_to_learn_from_oneself_and_something_from_others(make):
    trainee, x, y, known = taught(make)
    here, there = trainee.student(x), trainee.teacher(x)
    assert abs(float(trainee.distance_of(here, here))) < 1e-6 < 1e-5 < float(trainee.distance_of(there, here))
    before = [np.array(weight) for weight in trainee.teacher.get_weights()]
    history = trainee.fit(x, y, epochs=1, verbose=0, validation_data=(x, y))
    # What is trained has both parts; what is validated is the user's own loss.
    trainee.student.compile("sgd", known.loss, loss_weights=known.loss_weights)
    measured = trainee.student.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert history.history["val_loss"][-1] == pytest.approx(measured, rel=1e-4)
    assert all(np.array_equal(one, two) for one, two in zip(before, trainee.teacher.get_weights()))


def test_following_alone_brings_the_teachers_outputs():
    model, x, _ = tasks.regression()
    teacher = keras.models.clone_model(model)
    known = task.of_model(model)
    trainee = Distilled(0.999, 1.0).taught(model, teacher, followed(known, model, model.predict(x, verbose=0)))
    known.compile(trainee, 0.02)
    wanted = teacher.predict(x, verbose=0)
    apart = np.abs(model.predict(x, verbose=0) - wanted).mean()
    trainee.fit(x, np.zeros_like(wanted), epochs=20, verbose=0)
    assert np.abs(model.predict(x, verbose=0) - wanted).mean() < 0.4 * apart


@pytest.mark.parametrize("make", [tasks.two_outputs, tasks.integer_labels])
def test_the_loss_is_the_users_with_all_its_weights_and_the_distance(make):
    trainee, x, y, known = taught(make)
    trainee.student.get_layer("conv1").kernel.regularizer = keras.regularizers.L2(0.1)
    found = trainee.student(x)
    weight = np.linspace(0.5, 2.0, tasks.NUM).astype("float32") ** 2
    weights = keras.tree.map_structure(lambda _: weight, y) if make is tasks.two_outputs else weight
    plain = keras.Model(trainee.student.input, trainee.student.output)
    known.compile(plain, 0.01)
    own = plain.compute_loss(x, y, found, weights)
    distance = trainee.distance_of(trainee.teacher(x), found, weights)
    trainee.distance.reset_state()
    whole = trainee.compute_loss(x, y, found, weights)
    assert float(whole) == pytest.approx(0.7 * float(own) + 0.3 * float(distance), rel=1e-5)
    assert float(trainee.compute_loss(x, y, found, weights, training=False)) == pytest.approx(float(own), rel=1e-5)
    without = trainee.compute_loss(x, y, found, weights) - trainee.compute_loss(x, y, found)
    assert abs(float(without)) > 1e-3 and float(plain.losses[0]) > 0.01
    # An example that counts for nothing has nothing to follow either.
    nothing = keras.tree.map_structure(lambda array: 0.0 * array, weights)
    assert float(trainee.distance_of(trainee.teacher(x), found, nothing)) == 0.0


def test_probabilities_and_their_logits_are_followed_alike():
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(5, 3)).astype("float32") * 3 for _ in range(2)]
    ops = keras.ops
    pairs = [("sparse_categorical_crossentropy", ops.softmax), ("binary_crossentropy", ops.sigmoid)]
    for name, activation in pairs:
        distances = []
        for arrays in (logits, [np.array(activation(array)) for array in logits]):
            model = keras.Sequential([keras.Input((3,)), L.Identity()])
            (output,) = followed(task.Task(loss=name), model, arrays[0])
            distances.append(np.array(output.distance(*arrays, 2.5)))
        np.testing.assert_allclose(*distances, rtol=1e-3)
        assert distances[0].shape == (5,) and distances[0].min() > 0
    p, q = (np.array(ops.softmax(array / 2.5)) for array in logits)
    (output,) = followed(task.Task(loss="categorical_crossentropy"), model, logits[0])
    np.testing.assert_allclose(output.distance(*logits, 2.5), np.sum(p * np.log(p / q), -1), rtol=1e-4)


def test_outputs_without_a_loss_are_not_followed_and_own_losses_by_squares():
    def own(y, found):
        return keras.ops.mean(keras.ops.abs(y - found) ** 3)

    image = keras.Input((4,))
    model = keras.Model(image, {"a": L.Dense(2, name="a")(image), "b": L.Dense(2, name="b")(image)})
    outputs = {"a": np.zeros((3, 2), "float32"), "b": np.zeros((3, 2), "float32")}
    first, second = followed(task.Task(loss={"b": own}), model, outputs)
    assert first is None
    np.testing.assert_allclose(second.distance(np.ones((3, 2)), np.full((3, 2), 3.0), 5.0), [4.0] * 3)


# Two outputs are taught above, and a whole run that teaches is in `test_workflow`.
@pytest.mark.slow
def test_a_run_of_two_outputs_follows_its_dense_model(tmp_path):
    model, x, y = tasks.two_outputs()
    config = {
        "export": {"precisions": ["int8"], "latency_runs": 1, "representative": 32, "verify": 16, "pack": False},
        "train": {"batch_size": 16},
        "distill": {"weight": 0.5},
    }
    epochs = {"train": 1, "regularize": 0, "retrain": 2}
    config |= {"regularize": {"method": "one_shot", "coupled": {}}, "prune": {"macs": 0.3}}
    result = tfr.compress(model, (x, y), epochs=epochs, config=config, out=tmp_path / "run", console=QUIET)
    followed_in = {record["stage"] for record in result["curves"] if "distillation_loss" in str(record)}
    assert followed_in == {"retrained"}


def test_a_class_that_trains_in_its_own_way_is_refused():
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    model, x, _ = tasks.regression()
    own = Own(model.input, model.output)
    own.compile("adam", "mse")
    with pytest.raises(ValueError, match="trains in its own way"):
        TRAINER.check(own, task.of_model(own), None)
    TRAINER.check(model, task.of_model(model), None)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_outputs_in_half_precision_are_followed_in_that_of_the_loss(policy):
    layers = [L.Dense(6, activation="relu", dtype=policy), L.Dense(3, activation="softmax", dtype=policy)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    x, y = np.random.default_rng(0).normal(size=(32, 4)).astype("float32"), np.arange(32) % 3
    known = task.Task(loss="sparse_categorical_crossentropy")
    trainee = TRAINER.taught(model, keras.models.clone_model(model), followed(known, model, model.predict(x, verbose=0)))
    known.compile(trainee, 0.01)
    history = trainee.fit(x, y, epochs=1, verbose=0, sample_weight=np.linspace(0.5, 2.0, 32))
    assert 0 < history.history["distillation_loss"][0] < 10 and np.isfinite(history.history["loss"][0])
    assert trainee.distance_of(trainee.teacher(x), model(x)).dtype == "float32"
