"""The user's callbacks, however they are given: the same for every stage, or made anew for each."""

import inspect

import keras

from tf_reweight import errors
from tf_reweight.checks import is_sequence

_FIX = "Pass a list of keras.callbacks.Callback objects, or a function that is given the name of a stage and returns one."


def maker(callbacks):
    """A function `name of the stage -> list of callbacks`.

    Args:
        callbacks: as `fit` takes them, a callback or several, which every stage is given; or a function of the name of the
            stage that makes them.

    Raises:
        TypeError: for anything else; of a function, when it returns anything else.
    """
    if not callable(callbacks) or isinstance(callbacks, keras.callbacks.Callback):
        given = _checked(callbacks, "`callbacks` must be callbacks")
        return lambda stage: _begun(given)
    if isinstance(callbacks, type) or not _takes_a_name(callbacks):
        raise TypeError(errors.message("`callbacks` must be callbacks, or make them from a name.", _FIX, callbacks=callbacks))
    return lambda stage: _begun(_checked(callbacks(stage), f"The function `callbacks` must return callbacks for {stage!r}"))


def _begun(callbacks):
    """The callbacks, those that swap weights with averages as if they had never swapped.

    After a `fit` they take the model's weights for averages, which they swap back when the next one begins. Each stage has an
    optimizer of its own, whose averages know nothing of that.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            callback._ema_weights_in_model = False
    return callbacks


def _takes_a_name(function):
    try:
        inspect.signature(function).bind("dense")
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _checked(callbacks, expected):
    if callbacks is None:
        return []
    found = list(callbacks) if is_sequence(callbacks) else [callbacks]
    if not all(isinstance(item, keras.callbacks.Callback) for item in found):
        raise TypeError(errors.message(f"{expected}.", _FIX, callbacks=callbacks))
    return found
