"""What every test shares: a quiet TensorFlow, fixed seeds, and long trainings only on request."""

import functools
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


# Files whose few tests take minutes, many in processes of their own. They come first: whichever of the processes that run
# side by side got one of them last would work alone while the others wait.
_LONG = (
    "test_distribution", "test_notebooks", "test_tasks", "test_workflow", "test_quantization_table", "test_budget_interrupted",
    "test_survival", "test_docs", "test_extending", "test_file_budgets",
)  # fmt: skip


def pytest_configure(config):
    # Else pytest-xdist, where it is used, begins with the files of most tests.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))
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


@pytest.fixture
def eager_steps(monkeypatch):
    """Models that say nothing else are compiled to take their steps operation by operation, copies of them as well.

    For code that is not the test's own and trains for a few steps: a compiled one takes longer to make than these to take.
    """
    own = keras.Model.compile

    @functools.wraps(own)
    def compile_eagerly(model, *given, **options):
        return own(model, *given, **{"run_eagerly": True, **options})

    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """What outlives a module is not looked through again: TensorFlow keeps its functions, and looking took half of the time."""
    yield
    gc.collect()
    gc.freeze()
