"""Which attributes of a callback its training has changed: only these are taken over into the process that goes on."""

import functools
import types

import numpy as np

from tf_reweight import errors
from tf_reweight.workflow import plain

# What Keras puts on a callback, what the terminal's clock counts, and what monitors give a sign when they first look.
_NOT_STATE = {"params", "_model", "validation_data", "_seconds", "_started", "min_delta"}
# Fingerprints of what a callback held before the first stage that trained with it: later stages count on from there.
_FIRST = "_held_before_its_first_stage"
# Larger values that training has not changed are data, and are not written after each epoch.
_DATA_BYTES = 2**20
# What programs are made of, and no training changes.
_PROGRAM = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, functools.partial, np.ufunc
)  # fmt: skip
# Their callbacks make writers, files and functions anew where they need them.
_OURS = ("keras", "tf_reweight")


class Attributes:
    """The attributes of one callback, compared by content before a training, after `on_train_begin` and after each epoch.

    - What training has changed is state: it is kept, and given to the callback that goes on.
    - What `on_train_begin` sets and training leaves alone, such as a clock, is what the process that goes on sets.
    - All else are arguments: those of the callback that goes on hold, also where they differ.

    Args:
        callback: of Keras; it is looked at here, before its `on_train_begin`.
    """

    def __init__(self, callback):
        self.callback = callback
        self._given = _fingerprints(callback)
        self._before = vars(callback).setdefault(_FIRST, self._given)
        self._set_at_beginning = set()

    @property
    def kind(self):
        """The callback's class, by which it is found again."""
        return f"{type(self.callback).__module__}.{type(self.callback).__qualname__}"

    @property
    def _package(self):
        return type(self.callback).__module__.partition(".")[0]

    def begin(self):
        """Looks again, after `on_train_begin`."""
        begun = _fingerprints(self.callback)
        self._set_at_beginning = {name for name, mark in begun.items() if mark != self._given.get(name)}
        self._before = {**self._before, **{name: begun[name] for name in self._set_at_beginning}}

    def kept(self, arrays):
        """What is kept of the callback, JSON-ready; its arrays are added to the dict `arrays`."""
        values, arguments = {}, {}
        now = _fingerprints(self.callback)
        for name, mark in now.items():
            if mark == self._before.get(name):
                if name in self._set_at_beginning:
                    continue
                arguments[name] = mark.digest
                if mark.num_bytes > _DATA_BYTES:
                    continue
            values[name] = vars(self.callback)[name]
        return {
            "class": self.kind,
            "values": plain.packed(values, arrays),
            "arguments": arguments,
            "more": self._more(arrays),
            "lost": self._lost(now),
        }

    def go_on(self, kept, arrays):
        """Takes over what was kept; returns lines for the user, on what is not as it was."""
        arguments, own = kept["arguments"], vars(self.callback)
        before = {name: self._before[name].digest for name in own if name in self._before}
        changed = [
            name for name, digest in arguments.items()
            if name in before and name not in self._set_at_beginning and before[name] != digest
        ]  # fmt: skip
        now = _fingerprints(self.callback)
        for name, value in plain.unpacked(kept["values"], arrays).items():
            unchanged = name in now and now[name] == plain.fingerprint(value)
            # An argument that is the same in both is put back where a training in this very process was cut off.
            if not unchanged and (name not in arguments or before.get(name) == arguments[name]):
                own[name] = value
        if kept["more"] is not None:
            self.callback.continue_from(plain.unpacked(kept["more"], arrays))
        return self._told(changed, kept["lost"])

    def _told(self, changed, lost):
        name, lines = type(self.callback).__name__, []
        if changed and self._package != "tf_reweight":  # whose callbacks of a run differ only in paths of a moved folder
            lines.append(f"{name}: {', '.join(changed)} as given now, not as in the part that is done")
        if lost:
            what = ", ".join(f"{attribute} ({kind})" for attribute, kind in lost.items())
            lines.append(f"{name}: not kept, as this process has made it: {what}; see checkpoint_state in docs/tasks.md")
        return lines

    def _more(self, arrays):
        """What a callback's own `checkpoint_state` says; None without one."""
        if not hasattr(self.callback, "checkpoint_state"):
            return None
        state = self.callback.checkpoint_state()
        try:
            return plain.packed(state, arrays)
        except plain.NotPlain as error:
            expected = f"`{type(self.callback).__name__}.checkpoint_state` must return numbers, text, arrays and collections."
            fix = "Return for example `value.numpy()` of a tensor, and make it again in `continue_from`."
            raise TypeError(errors.message(expected, fix, contains=str(error))) from None

    def _lost(self, now):
        """The kinds of attributes, by name, that cannot be kept and might be state."""
        if self._package in _OURS or hasattr(self.callback, "continue_from"):
            return {}
        others = {name: value for name, value in vars(self.callback).items() if name not in now and name not in _NOT_STATE}
        return {
            name: type(value).__name__ for name, value in others.items() if name != _FIRST and not isinstance(value, _PROGRAM)
        }


def _fingerprints(callback):
    """A `plain.Fingerprint` of each attribute that can be kept, by name."""
    found = {}
    for name, value in vars(callback).items():
        if name in _NOT_STATE or name == _FIRST:
            continue
        try:
            found[name] = plain.fingerprint(value)
        except plain.NotPlain:
            continue  # functions, models, writers
    return found
