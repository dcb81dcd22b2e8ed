"""What the README tells a user to type runs as it stands, on a model and data of the user's."""

import pathlib
import re

import keras
import numpy as np
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
def test_python_examples_run(tmp_path, monkeypatch):
    """All blocks one after the other, with fewer epochs; every name in them that is not theirs is the user's."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [keras.Input((8, 8, 1)), layers.Conv2D(32, 3), layers.BatchNormalization(momentum=0.5), layers.ReLU()]
    stack += [layers.Flatten(), layers.Dense(48, activation="relu"), layers.Dense(3, activation="softmax")]
    keras.Sequential(stack).save("mine.keras")
    rng = np.random.default_rng(0)
    x = rng.random((96, 8, 8, 1)).astype("float32")
    names = {"x": x, "y": rng.integers(0, 3, 96), "x_val": x[:32], "y_val": rng.integers(0, 3, 32)}
    code = re.sub(r"epochs=\d+", "epochs=2", "\n".join(blocks))
    # Noise teaches nothing, so the penalty frees nothing by itself: an amount, as the comments beside the calls offer.
    code = code.replace("tfr.prune(model) ", "tfr.prune(model, sparsity=0.8) ")
    code = code.replace("tfr.prune_groups(model) ", "tfr.prune_groups(model, sparsity=0.5) ")
    exec(compile(code, "README.md", "exec"), names)
    assert names["small"].count_params() < names["model"].count_params()
    assert (tmp_path / "packed.tflite").stat().st_size <= (tmp_path / "small.tflite").stat().st_size
    assert names["record"].sparsity > 0.7


def test_commands_of_the_readme_exist():
    from tf_reweight.cli.commands import COMMANDS

    named = set(re.findall(r"tf-reweight (\w+)", README))
    assert set(COMMANDS) == named
