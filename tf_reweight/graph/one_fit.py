"""What callbacks change on a model for one `fit` is given back at its end, or by the next `fit` after an interrupted one."""

import functools
import inspect
import sys

import keras

from tf_reweight import errors

# Where a model holds the callbacks at work on it, with what gives back what each of them changed.
_AT_WORK = "_tf_reweight_at_work"
# `fit` calls this first of all, without an argument. So does a step on a single batch, which may come inside a `fit`.
_NEXT_FIT, _ONE_STEP = "make_train_function", "train_on_batch"


def begin(model, callback, give_back, with_penalties=False):
    """Lets a function of a callback run once: when `end` is called, or else when the next `fit` begins.

    Keras calls no `on_train_end` after a `fit` that was interrupted, so that what a callback changed would stay. A `fit` that
    another callback runs inside this one ends nothing: what was changed acts in it as well.

    Args:
        model: the model in training.
        callback: the callback at work on it.
        give_back: function without arguments that gives back what the callback changed. It drops compiled steps, where what
            it gives back is part of them.
        with_penalties: whether it is given back as well when penalties are taken off the model, which it works for.
    """
    at_work = vars(model).get(_AT_WORK)
    if at_work is None:
        at_work = {}
        # Past Keras, which would save them.
        object.__setattr__(model, _AT_WORK, at_work)
        object.__setattr__(model, _NEXT_FIT, functools.partial(_make_train_function, model))
        object.__setattr__(model, _ONE_STEP, functools.partial(_train_on_batch, model))
    at_work[id(callback)] = callback, give_back, with_penalties, _fits_running(model)


def end(model, callback):
    """Gives back what a callback changed. Returns whether it was at work on the model."""
    at_work = vars(model).get(_AT_WORK, {})
    if id(callback) not in at_work:
        return False
    _, give_back, *_ = at_work.pop(id(callback))
    if not at_work:
        for name in (_AT_WORK, _NEXT_FIT, _ONE_STEP):
            vars(model).pop(name, None)
    give_back()
    return True


def callbacks_at_work(model, kind):
    """The callbacks of a class that are at work on a model, in the order in which they began."""
    return [callback for callback, *_ in vars(model).get(_AT_WORK, {}).values() if isinstance(callback, kind)]


def end_with_penalties(model):
    """Gives back what callbacks changed that work for the penalties of a model, which are taken off now."""
    for callback, _, with_penalties, _ in list(vars(model).get(_AT_WORK, {}).values()):
        if with_penalties:
            end(model, callback)


def end_earlier(model, callback, clashes=lambda earlier: True):
    """Ends what callbacks of the same class left on a model.

    Args:
        model: the model in training.
        callback: the callback that begins to work on it.
        clashes: function of another callback of the class, whether both cannot work on the model at once. Those that can, as
            on other layers, are left alone.

    Raises:
        ValueError: where one is at work in the same `fit` already, another or the same, or in the `fit` that this one runs
            inside.
    """
    name, running = type(callback).__name__, _fits_running(model)
    for earlier, _, _, depth in list(vars(model).get(_AT_WORK, {}).values()):
        if not isinstance(earlier, type(callback)) or (earlier is not callback and not clashes(earlier)):
            continue
        if depth < running:
            fix = "Leave it out of the inner `fit`: what the outer one does to the model acts there too."
            expected = f"A `fit` inside another one of the same model must have no {name} where the outer one has."
            raise ValueError(errors.message(expected, fix, callbacks=[name]))
        # What an interrupted `fit` left was given back when this one began: the same callback is listed twice.
        twice = depth == running > 0 if earlier is callback else earlier.params is callback.params
        if twice:
            fix = "Leave one of them out."
            raise ValueError(errors.message(f"`callbacks` must hold one {name}.", fix, callbacks=[name, name]))
        end(model, earlier)


def _make_train_function(model, force=False):
    """Stands for the model's `make_train_function`; while `fit` runs, callbacks call it with `force`."""
    if not force:
        running = _fits_running(model)
        # In reverse order: the first that began knows how the model was before all of them.
        for callback, _, _, depth in reversed(list(vars(model).get(_AT_WORK, {}).values())):
            # Those of a `fit` that this one runs inside go on.
            if depth >= running:
                end(model, callback)
    return type(model).make_train_function(model, force=force)


@functools.cache
def _code_of_fit():
    """The code of Keras' own `fit`, without what it is wrapped in."""
    return inspect.unwrap(keras.Model.fit).__code__


def _fits_running(model):
    """How many calls of `fit` of a model are running, each inside the one before.

    Only the stack of calls tells a `fit` in a callback of another one from a `fit` that follows an interrupted one: Keras notes
    neither.
    """
    count, frame = 0, sys._getframe()
    while frame is not None:
        count += frame.f_code is _code_of_fit() and frame.f_locals.get("self") is model
        frame = frame.f_back
    return count


def _train_on_batch(model, *args, **kwargs):
    """Stands for the model's `train_on_batch`, which begins no new `fit`."""
    own = vars(model).pop(_NEXT_FIT, None)
    try:
        return type(model).train_on_batch(model, *args, **kwargs)
    finally:
        if own is not None and _AT_WORK in vars(model):
            object.__setattr__(model, _NEXT_FIT, own)
