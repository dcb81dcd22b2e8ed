"""What every test shares: a quiet TensorFlow, fixed seeds, and long trainings only on request."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# One thread for each of the processes that run side by side: the nets are so small that more only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow  # noqa: E402, F401

# The package looks through the objects in memory now and then: those of the libraries need not be looked at in each test.
gc.collect()
gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the long trainings")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="long training: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts from the same seed and an empty global Keras state."""
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """What outlives a module is not looked through again: TensorFlow keeps its functions, and looking took half of the time."""
    yield
    gc.collect()
    gc.freeze()
