"""The one door through which examples come in: whatever `fit` or TFLite's converter takes becomes one array per input."""

import contextlib
import dataclasses
import inspect
import itertools

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_holds, check_unmasked, is_sequence, listed
from tf_reweight.data import last_axes
from tf_reweight.graph.access import is_layer
from tf_reweight.graph.walking import called_with, declares_inputs, input_structure, keys_of, output_structure

# Of sources that hold more, so many are taken: calibration and comparison gain nothing from further ones.
MOST = 1024
_WHAT = "Pass arrays, a tf.data.Dataset, a generator or a PyDataset."


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input tensor: its name in the file's signature, its shape `(batch=1, ...)`, its NumPy dtype name."""

    name: str
    shape: tuple
    dtype: str


def take(model, examples, argument, most=MOST):
    """Examples of any kind as one array per input of a model.

    Args:
        model: a built Keras model; its inputs say what names and shapes there are.
        examples: an array `(num, ...)`; a list, tuple, dict by name or nested structure of them, as the model takes its inputs;
            or batches of these: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator or a function that makes one, a
            list of dicts or tuples, or any other iterable. A batch may be `(x,)`, `(x, y)` or `(x, y, sample_weight)` as for
            `fit`, of which `x` is taken, or a single example without a batch axis. A tuple `(x, y)` of all examples and their
            labels is one too where `x` has the model's inputs, by number or name: of two inputs as `([first, second], y)`. A
            tuple that holds just the inputs, as `(first, second)`, is inputs, and one of batches is batches.
        argument: the argument's name, for errors.
        most: how many examples are taken of a source of batches. Where its end is known, they are drawn from all of it
            by a fixed seed, since many sources are sorted by class; of a generator they are the first.

    Returns:
        List of arrays `(num, ...)`, in the order of `keras.tree.flatten(model.inputs)`; not checked, see `checked`.

    Raises:
        TypeError: for what holds no examples.
        ValueError: for unknown or missing names, an empty source, or batches that do not fit together.

    Example:
        >>> take(model, {"right": right, "left": left}, "x")[0] is left
        True
    """
    x, _ = pair(model, examples) or (examples, None)
    return _taken(model, x, argument, most, with_labels=False)[0]


def take_labelled(model, examples, argument, most=MOST):
    """`take`, and the labels where the source has them: `(arrays, labels or None)`.

    Sources of batches have labels of their own, and tuples `(x, y)`; other arrays and structures of arrays are inputs and
    nothing else. A source whose end is known is read to its end. Labels of several outputs keep the structure that they have
    in a batch.
    """
    x, y = pair(model, examples) or (examples, None)
    arrays, found = _taken(model, x, argument, most, with_labels=y is None)
    return arrays, found if y is None else y


def pair(model, given):
    """`(x, y)` where a tuple is examples and their labels, else None; see `take`.

    Of a subclassed model that was not called yet nobody knows how many inputs it has: two arrays are taken for two of them.
    """
    if not isinstance(given, tuple) or len(given) != 2:
        return None
    door = _Door(called_with(model), "data")
    return given if door.tensors is not None and not door.is_whole(given) and door.is_pair(*given) else None


def _taken(model, examples, argument, most, with_labels):
    door = _Door(input_structure(model), argument, output_structure(model), with_labels)
    batches, ends = (None, True) if door.is_whole(examples) else _batches(examples, argument)
    if batches is None:
        return door.inputs(examples), None
    return _collected(map(door.batch, batches), argument, most, ends)


def arrays_of(model, x, argument):
    """One array per input of a model, of a batch of inputs in any form that `take` knows for arrays."""
    return _Door(input_structure(model), argument).inputs(x)


def packed(model, arrays):
    """Arrays in the structure in which a model takes them."""
    structure = input_structure(model)
    if structure is None:
        return arrays[0] if len(arrays) == 1 else arrays
    return keras.tree.pack_sequence_as(structure, arrays)


def in_structure(model, x):
    """Inputs as a model takes them: one array alone is put where a model with one input takes a list or a dict of it."""
    structure = input_structure(model)
    if structure is None or not keras.tree.is_nested(structure) or keras.tree.is_nested(x):
        return x
    tensors = keras.tree.flatten(structure)
    # A tuple, which Keras takes for a list as well, since data sets of TensorFlow hold no lists.
    return keras.tree.lists_to_tuples(keras.tree.pack_sequence_as(structure, [x])) if len(tensors) == 1 else x


class _Door:
    """Puts what a model is fed into the order of its inputs.

    Args:
        structure: of its symbolic inputs; None where the model does not say.
        argument: for errors.
        outputs: the structure of its symbolic outputs, as `structure`, which is that of labels.
        with_labels: whether the labels of batches are wanted; else they may be anything.
    """

    def __init__(self, structure, argument, outputs=None, with_labels=False):
        self.structure, self.argument = structure, argument
        self._outputs, self._with_labels = outputs, with_labels
        self.tensors = None if structure is None else keras.tree.flatten(structure)
        self._in_batches = False

    def is_whole(self, given):
        """Whether a list or tuple is in the structure of the inputs, nested ones included: no list of batches."""
        if not is_sequence(given) or not is_sequence(self.structure):
            return False
        try:
            keras.tree.assert_same_structure(*map(keras.tree.lists_to_tuples, (self.structure, given)))
        except (ValueError, TypeError):
            return False
        return True

    def is_pair(self, x, y):
        """Whether two things are inputs and their labels, and neither two inputs nor two batches."""
        several = len(self.tensors) > 1
        if several and self._tried((x, y)) is not None:
            return False
        if not isinstance(x, (tuple, list, dict)):
            return not several
        if not isinstance(y, (tuple, list, dict)):
            return True
        if not several and isinstance(x, list):
            # Two lists of numbers may be one array.
            return not (_is_numbers(x) and self._are_inputs([x, y]))
        return self._tried(x) is not None and not self._are_inputs(y)

    def _are_inputs(self, given):
        """Whether something holds arrays of the sizes of the inputs."""
        arrays = self._tried(given)
        if arrays is None:
            return False
        wanted = [tuple(tensor.shape)[1:] for tensor in self.tensors]
        return all(
            array.ndim == len(sizes) + 1 and all(size in (None, own) for size, own in zip(sizes, array.shape[1:]))
            for array, sizes in zip(arrays, wanted)
        )

    def _tried(self, given):
        """`inputs`, or None where they do not go in."""
        try:
            arrays = self.inputs(given)
        except (ValueError, TypeError):
            return None
        # NumPy makes an array without axes of what is none, as of a dict.
        return arrays if all(array.ndim for array in arrays) else None

    def inputs(self, given):
        """One array per input, with its axes, of one array or a structure of arrays."""
        return self._with_axes(self._ordered(given))

    def _with_axes(self, arrays):
        if self.tensors is None or len(arrays) != len(self.tensors):
            return arrays
        return [last_axes.fitted(array, tensor) for array, tensor in zip(arrays, self.tensors)]

    def _ordered(self, given):
        if self.tensors is None:
            return [self._array(item) for item in (list(given.values()) if isinstance(given, dict) else listed(given))]
        if isinstance(given, dict) and not isinstance(self.structure, dict):
            names = [tensor.name for tensor in self.tensors]
            self._check_names(given, names)
            return [self._array(given[name]) for name in names]
        if len(self.tensors) == 1 and _is_numbers(given):
            return [self._array(given)]
        made = []
        self._fill(self.structure, given, made)
        return made

    def batch(self, given):
        """`(arrays, labels)` of a batch or a single example; labels, a structure of arrays, may be None."""
        x, y = self._parted(given)
        arrays = self._ordered(x)
        y = self._labels(y, self._outputs) if self._with_labels and y is not None else None
        if self.tensors is not None and len(arrays) == len(self.tensors):
            # After others the last batch may hold one example: of a column without its axis it looks like a single one.
            single = not self._in_batches and all(map(last_axes.is_single, map(np.shape, arrays), self.tensors))
            self._in_batches = not single
            if single:
                arrays = [array[None] for array in arrays]
                y = None if y is None else keras.tree.map_structure(lambda array: array[None], y)
        arrays = self._with_axes(arrays)
        lengths = [len(array) if array.ndim else None for array in (*arrays, *_leaves(y))]
        if len(set(lengths)) != 1 or None in lengths:
            fix = "Each batch holds as many examples for each input, and as many labels."
            raise ValueError(errors.message(f"`{self.argument}` must yield whole batches.", fix, lengths=lengths))
        return arrays, y

    def _labels(self, y, outputs):
        """Labels with arrays at their ends, in the structure in which they came: a dict, or a tuple for several outputs."""
        if isinstance(y, dict):
            parts = outputs if isinstance(outputs, dict) else {}
            return {name: self._labels(label, parts.get(name)) for name, label in y.items()}
        if not is_sequence(y):
            return self._array(y)
        parts = [outputs[name] for name in sorted(outputs)] if isinstance(outputs, dict) else listed(outputs)
        if len(parts) > 1 and len(y) == len(parts):
            return tuple(map(self._labels, y, parts))
        if is_sequence(outputs) and len(y) == len(parts) == 1 and np.ndim(y[0]):
            return self._labels(y[0], parts[0])
        # Of a subclassed model it is not known what it gives; its only output may have lists of numbers.
        if outputs is None and not _is_numbers(y) and all(map(np.ndim, y)):
            return tuple(self._labels(label, None) for label in y)
        return self._array(y)

    def _parted(self, given):
        """`(x, y)` as `fit` parts them; a tuple or list with an array for each of several inputs is all x."""
        if not is_sequence(given) or _is_numbers(given):
            return given, None
        several = self.tensors is not None and len(given) == len(self.tensors) > 1
        if several and not isinstance(given[0], (tuple, list, dict)):
            return given, None
        if isinstance(given, list) and self.tensors is None:
            return given, None
        return given[0], given[1] if len(given) > 1 else None

    def _fill(self, structure, given, made):
        """Appends the arrays of a structure in the order in which Keras flattens it."""
        if isinstance(structure, dict):
            if isinstance(given, dict):
                self._check_names(given, list(structure))
                given = [given[name] for name in sorted(structure)]
            parts = [structure[name] for name in sorted(structure)]
        elif is_sequence(structure):
            if isinstance(given, dict):
                names = [getattr(part, "name", None) for part in structure]
                self._check_names(given, names)
                given = [given[name] for name in names]
            parts = list(structure)
        else:
            if not _is_numbers(given):
                (given,) = self._counted(given, 1)
            made.append(self._array(given))
            return
        for part, item in zip(parts, self._counted(given, len(parts))):
            self._fill(part, item, made)

    def _counted(self, given, num):
        """The entries of a list or tuple, or of one array, that must be so many."""
        given = listed(given)
        if len(given) != num:
            fix = f"In this order: {[tensor.name for tensor in self.tensors]}."
            expected = f"`{self.argument}` must hold one array per input, {len(self.tensors)}."
            raise ValueError(errors.message(expected, fix, arrays=len(given)))
        return given

    def _array(self, given):
        check_unmasked(given, self.argument)
        try:
            return np.asarray(given)
        except ValueError as error:  # NumPy's word for lists of unlike lengths
            fix = "Pad or cut the examples to one size."
            raise ValueError(errors.message(f"`{self.argument}` must hold arrays.", fix, says=str(error))) from error

    def _check_names(self, given, names):
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise ValueError(errors.unknown(f"input of `{self.argument}`", unknown[0], names))
        missing = [name for name in names if name not in given]
        if missing:
            fix = f"Add {missing}."
            raise ValueError(errors.message(f"`{self.argument}` must name every input.", fix, inputs=list(given)))


def input_specs(model, arrays=None):
    """One `InputSpec` per input tensor of a built model; sizes the model leaves open are read off examples.

    Args:
        model: a built Keras model.
        arrays: from `take`, or None.

    Raises:
        ValueError: when a size is open and there is no data to read it off.
    """
    structure = input_structure(model)
    if not declares_inputs(model):
        if arrays is None:
            raise ValueError(
                errors.message(
                    "The shape of the inputs must be known; a subclassed model does not say it.",
                    "Pass `verify_data` or `representative_data`, inputs as the model takes them.",
                    model=type(model).__name__,
                )
            )
        keys = [None] * len(arrays) if structure is None else keys_of(structure)
        entries = enumerate(zip(keys, arrays))
        return [InputSpec(key or f"input_{i}", (1, *x.shape[1:]), _narrow(x.dtype.name)) for i, (key, x) in entries]
    specs, keys = [], keys_of(structure)
    for position, tensor in enumerate(keras.tree.flatten(structure)):
        shape = tuple(tensor.shape[1:])
        if None in shape and arrays is not None and position < len(arrays) and arrays[position].ndim == len(shape) + 1:
            known = arrays[position].shape[1:]
            shape = tuple(have if size is None else size for size, have in zip(shape, known))
        if None in shape:
            raise ValueError(
                errors.message(
                    "A file for phones needs inputs of one size; this model leaves it open.",
                    "Pass `verify_data` or `representative_data` of the size you want.",
                    input=keys[position] or tensor.name,
                    shape=tuple(tensor.shape),
                )
            )
        specs.append(InputSpec(keys[position] or tensor.name, (1, *shape), keras.backend.standardize_dtype(tensor.dtype)))
    return specs


def checked(arrays, specs, argument, text=False):
    """The arrays of `take` in the types of the inputs they are for.

    Args:
        arrays, specs: one each per input.
        argument: for errors.
        text: whether inputs of text are taken too; no file can have them.

    Raises:
        ValueError: for a wrong number of arrays, a wrong shape, no examples, NaN or infinity.
    """
    check_flags(text=text)
    if len(arrays) != len(specs):
        expected = f"`{argument}` must hold one array per input, {len(specs)}."
        raise ValueError(errors.message(expected, f"In this order: {[s.name for s in specs]}.", arrays=len(arrays)))
    made = [_checked(array, spec, argument, text) for array, spec in zip(arrays, specs)]
    if len({len(array) for array in made}) != 1:
        lengths = [len(array) for array in made]
        raise ValueError(
            errors.message(
                f"`{argument}` must have as many examples for each input.",
                "Cut the longer ones, or pass what is missing.",
                lengths=lengths,
            )
        )
    return made


def _checked(array, spec, argument, text):
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:] or not len(array):
        raise ValueError(
            errors.message(
                f"`{argument}` must have the shape ({', '.join(map(str, ('num >= 1', *spec.shape[1:])))}), for {spec.name!r}.",
                "Stack examples as the model takes them.",
                shape=array.shape,
            )
        )
    if text and spec.dtype == "string":
        if array.dtype.kind not in "SUO":
            expected = f"`{argument}` must hold text for {spec.name!r}."
            raise ValueError(errors.message(expected, "Pass what the lookup takes.", dtype=str(array.dtype)))
        return array
    if spec.dtype == "string":
        fix = "Take the part of the model behind its lookup, with keras.Model(layer.output, model.output)."
        raise ValueError(errors.message(f"`{argument}` must be for inputs of numbers.", fix, text=spec.name))
    if array.dtype.kind not in "biuf" or ("int" in spec.dtype and array.dtype.kind == "f"):
        raise ValueError(
            errors.message(f"`{argument}` must hold numbers that fit {spec.dtype}.", "Convert it.", dtype=str(array.dtype))
        )
    check_holds(spec.dtype, array, argument, repr(spec.name))
    with np.errstate(over="ignore"):  # what is too large for the input's type is told below
        made = array.astype(spec.dtype)
    if array.dtype.kind == "f" and not np.isfinite(made).all():
        bad = int(np.flatnonzero(~np.isfinite(made.reshape(len(array), -1)).all(axis=1))[0])
        expected = f"`{argument}` must be finite in {spec.dtype} (no NaN, no infinity)."
        raise ValueError(errors.message(expected, "Remove or fill it.", example=bad))
    return made


def _batches(examples, argument):
    """`(iterator over batches, whether it ends)`; None for an array or a structure of arrays."""
    # A model is a function too, but makes no batches.
    if examples is None or isinstance(examples, (str, bytes)) or is_layer(examples):
        raise TypeError(errors.message(f"`{argument}` must hold examples.", _WHAT, **{argument: examples}))
    if isinstance(examples, keras.utils.PyDataset):
        num = examples.num_batches
        return (examples[i] for i in (itertools.count() if num is None else range(num))), num is not None
    if isinstance(examples, dict) or hasattr(examples, "__array__"):
        return None, True
    if is_sequence(examples):
        # Dicts and tuples inside a list are batches; arrays inside a list are one for each input.
        return (iter(examples), True) if examples and isinstance(examples[0], (dict, tuple)) else (None, True)
    if hasattr(examples, "element_spec"):
        return iter(examples), int(examples.cardinality()) >= 0
    if callable(examples):
        check_takes_nothing(examples, argument)
        examples = examples()
    if not hasattr(examples, "__iter__"):
        raise TypeError(errors.message(f"`{argument}` must hold examples.", _WHAT, type=type(examples).__name__))
    return iter(examples), hasattr(examples, "__len__")


def check_takes_nothing(function, argument):
    """Raises TypeError for a function that cannot be called without arguments, as one that makes a generator is."""
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        expected = f"`{argument}` must hold examples, or be a function that makes them of nothing; calling it says: {error}."
        raise TypeError(errors.message(expected, _WHAT, **{argument: function})) from None
    except ValueError:  # some functions in C say nothing of what they take
        pass


def _collected(batches, argument, most, ends):
    """Up to `most` examples of batches, as `(arrays, labels)`: drawn from all where they end, else the first."""
    rng, kept, seen = np.random.default_rng(0), [], 0
    for arrays, labels in batches:
        num_inputs, structure = len(arrays), labels
        for example in zip(*arrays, *_leaves(labels)):
            seen += 1
            if len(kept) < most:
                kept.append(example)
            elif ends:
                place = int(rng.integers(seen))
                if place < most:
                    kept[place] = example
        if not ends and len(kept) == most:
            break
    if not kept:
        fix = "A generator can be read once only: pass a function that makes it, or arrays."
        raise ValueError(errors.message(f"`{argument}` must hold at least one example.", fix, examples=0))
    with alike(argument, kept):
        columns = [np.stack(column) for column in zip(*kept, strict=True)]
    return columns[:num_inputs], None if structure is None else keras.tree.pack_sequence_as(structure, columns[num_inputs:])


@contextlib.contextmanager
def alike(argument, examples):
    """Tells what cannot be put together because sizes differ as an error about `argument`, with the sizes.

    Args:
        argument: its name.
        examples: list of structures of arrays, without the batch axis.
    """
    try:
        yield
    except ValueError as error:
        shapes = sorted({tuple(np.shape(array) for array in keras.tree.flatten(example)) for example in examples})
        fix = "Bring them to one size, as by padding all to the longest, and give all or none of the batches labels."
        shapes = [shape[0] if len(shape) == 1 else shape for shape in shapes[:5]]
        raise ValueError(errors.message(f"All examples of `{argument}` must be alike.", fix, shapes=shapes)) from error


def _leaves(labels):
    """The arrays of labels in a structure; none of None."""
    return [] if labels is None else keras.tree.flatten(labels)


def _is_numbers(given):
    """Whether something is an array, or numbers in nested lists."""
    while is_sequence(given) and given:
        given = given[0]
        if not is_sequence(given):
            return not hasattr(given, "__array__") and not isinstance(given, dict)
    return hasattr(given, "__array__")


def _narrow(dtype):
    return {"float64": "float32", "int64": "int32"}.get(dtype, dtype)
