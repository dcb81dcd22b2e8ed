"""What callbacks change on a model for one `fit` is given back at its end, or by the next `fit` after an interrupted one."""

import functools

from tf_reweight import errors

# Where a model holds the callbacks at work on it, with what gives back what each of them changed.
_AT_WORK = "_tf_reweight_at_work"
# `fit` calls this first of all, without an argument. So does a step on a single batch, which may come inside a `fit`.
_NEXT_FIT, _ONE_STEP = "make_train_function", "train_on_batch"


def begin(model, callback, give_back, with_penalties=False):
    """Lets a function of a callback run once: when `end` is called, or else when the next `fit` begins.

    Keras calls no `on_train_end` after a `fit` that was interrupted, so that what a callback changed would stay.

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
    at_work[id(callback)] = callback, give_back, with_penalties


def end(model, callback):
    """Gives back what a callback changed. Returns whether it was at work on the model."""
    at_work = vars(model).get(_AT_WORK, {})
    if id(callback) not in at_work:
        return False
    _, give_back, _ = at_work.pop(id(callback))
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
    for callback, _, with_penalties in list(vars(model).get(_AT_WORK, {}).values()):
        if with_penalties:
            end(model, callback)


def end_earlier(model, callback):
    """Ends what callbacks of the same class left on a model.

    Raises:
        ValueError: where another one is at work in the same `fit`.
    """
    for earlier in callbacks_at_work(model, type(callback)):
        if earlier is not callback and earlier.params is callback.params:
            name, fix = type(callback).__name__, "Leave one of them out."
            raise ValueError(errors.message(f"`callbacks` must hold one {name}.", fix, callbacks=[name, name]))
        end(model, earlier)


def _make_train_function(model, force=False):
    """Stands for the model's `make_train_function`; while `fit` runs, callbacks call it with `force`."""
    if not force:
        # In reverse order: the first that began knows how the model was before all of them.
        for callback, *_ in reversed(list(vars(model).get(_AT_WORK, {}).values())):
            end(model, callback)
    return type(model).make_train_function(model, force=force)


def _train_on_batch(model, *args, **kwargs):
    """Stands for the model's `train_on_batch`, which begins no new `fit`."""
    own = vars(model).pop(_NEXT_FIT, None)
    try:
        return type(model).train_on_batch(model, *args, **kwargs)
    finally:
        if own is not None and _AT_WORK in vars(model):
            object.__setattr__(model, _NEXT_FIT, own)
