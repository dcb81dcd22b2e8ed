"""What `layers=` may be, in every function that takes it.

A selector is one of
- a name or glob of layer paths: `"conv1"`, `"block1/*"`, a kernel's `"lstm/lstm_cell/recurrent_kernel"`; the name of what holds
  layers (a nested model, a recurrent or an attention layer) means all kernels inside; a name that a layer has is no glob;
- a layer, or a layer type; again with all kernels inside;
- a predicate `layer -> bool`; one whose parameter is called `target` gets the kernel's `Target` instead, which knows its name,
  path, layout and variable;
- a kernel's `Target` itself;
- a list of these, of which one has to match.
"""

import collections.abc
import dataclasses
import fnmatch
import inspect
import typing

import keras

from tf_reweight import errors
from tf_reweight.graph.access import is_layer
from tf_reweight.kernels.table import Target

Selector: typing.TypeAlias = str | keras.layers.Layer | type | Target | collections.abc.Callable[[typing.Any], bool]
Layers: typing.TypeAlias = Selector | collections.abc.Iterable[Selector] | None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What selectors look at: a layer with a kernel.

    Attributes:
        names: what it can be called: its path, its kernel's name.
        layer: the layer that owns the kernel.
        parents: layers that hold it, from the outside in.
        target: its `Target`, or None where the kernel is in no table.
    """

    names: tuple[str, ...]
    layer: keras.layers.Layer
    parents: tuple = ()
    target: Target | None = None

    @classmethod
    def of(cls, target):
        """The candidate of a kernel of the user's model."""
        return cls((target.path, target.name), target.layer, target.parents, target)

    @property
    def inside(self):
        """Paths of all that holds the layer: `("block", "block/attention")` of `block/attention/query`."""
        parts = self.names[0].split("/")
        return ["/".join(parts[:length]) for length in range(1, len(parts))]


class Exactly(str):
    """A name that a layer has, though it has the letters of a glob: it means that layer alone."""


def named(selector, candidates):
    """A selector, `Exactly` where it looks like a glob and is the name of a candidate, or of what holds one."""
    if is_glob(selector) and any(selector in (*each.names, *each.inside) for each in candidates):
        return Exactly(selector)
    return selector


def listed(layers, argument="layers"):
    """The selectors in an argument as a flat list; raises for what is none.

    Raises:
        TypeError: for another kind of thing, or an empty list.
    """
    if isinstance(layers, (list, tuple, set)):
        if not layers:
            fix = "Pass None for all layers."
            raise TypeError(errors.message(f"`{argument}` must not be empty.", fix, **{argument: layers}))
        return [selector for item in layers for selector in listed(item, argument)]
    if not isinstance(layers, (str, keras.layers.Layer, collections.abc.Callable, Target)):
        raise TypeError(
            errors.message(
                f"`{argument}` must be None, a name or glob, a layer, a layer type, a predicate, or a list of these.",
                'For example "conv*".',
                **{argument: layers},
            )
        )
    return [layers]


def unmatched(argument, selector, names):
    """The error text for a name, a layer or a `Target` that means no kernel of a model.

    Args:
        argument: its name.
        selector: what was given.
        names: paths and names of what the model has.
    """
    name = getattr(selector, "name", selector)
    if isinstance(selector, str) or not any(name in (path, path.rsplit("/", 1)[-1]) for path in names):
        return errors.unknown(argument, name, names)
    fix = "Take it from this very model, as with model.get_layer, or pass its name."
    return errors.message(f"`{argument}` must be of the model itself, and this is a layer of another model.", fix, layer=name)


def is_glob(selector):
    """Whether a selector is a pattern of names."""
    return isinstance(selector, str) and not isinstance(selector, Exactly) and any(letter in selector for letter in "*?[")


def names_exactly(selector, candidate):
    """Whether a selector means this very layer or kernel, by name or as the object, and not a kind or a group of them."""
    if isinstance(selector, str):
        return selector in candidate.names
    if isinstance(selector, Target):
        return matches(selector, candidate)
    return selector is candidate.layer


def matches(selector, candidate):
    """Whether a selector means a candidate."""
    if is_glob(selector):
        return any(fnmatch.fnmatchcase(name, selector) for name in candidate.names)
    if isinstance(selector, str):
        return selector in candidate.names or selector in candidate.inside
    holders = (*candidate.parents, candidate.layer)
    if is_layer(selector):
        return any(selector is holder for holder in holders)
    if isinstance(selector, Target):
        # By its variable: inside another model the same kernel has another name.
        return candidate.target is not None and candidate.target.variable is selector.variable
    if isinstance(selector, type):
        return any(isinstance(holder, selector) for holder in holders)
    return _says(selector, candidate.target if _wants_target(selector) else candidate.layer)


def _says(predicate, item):
    """Whether a user's function chooses something; raises ValueError where it fails."""
    try:
        return bool(predicate(item))
    except Exception as error:  # whatever is raised
        said = f"{type(error).__name__}: {error}".rstrip(".")
        expected = f"A predicate must say of a {type(item).__name__} whether it is chosen; it raised {said}."
        raise ValueError(errors.message(expected, "Correct the function.", predicate=predicate, of=item)) from error


def _wants_target(predicate):
    """Whether a predicate asks for the kernel: its parameter is called `target`."""
    try:
        parameters = list(inspect.signature(predicate).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return parameters[:1] == ["target"]
