"""What `fit` takes, behind one interface: examples of one split that can be read again and again, in batches."""

import abc
import hashlib
import itertools

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_unmasked, is_number, is_sequence, listed
from tf_reweight.data import last_axes, splits
from tf_reweight.data.augment import Shuffled
from tf_reweight.data.examples import alike, arrays_of, check_takes_nothing, in_structure, take
from tf_reweight.data.fitting import check_finite, check_fits
from tf_reweight.data.outlying import Outlying
from tf_reweight.data.raised import Watched, told_of_source
from tf_reweight.graph.access import is_layer
from tf_reweight.graph.walking import input_structure

# Batches in which arrays are measured.
BATCH = 512
# A source of batches without validation is read into memory to be split, up to so much.
_MOST_BYTES = 2**30
# A source of this many batches, and of more, counts as one without end.
_NO_END = 100_000
_WHAT = "Pass (x, y) or (x, y, sample_weight) of arrays, a tf.data.Dataset, a PyDataset, or a function that makes a generator."


class Feed(abc.ABC):
    """Examples of one split.

    Attributes:
        num_examples: how many; of a source without end those of one epoch.
        num_batches: per epoch of training.
        repeatable: whether an interrupted training that goes on sees what it would have seen.
        ends: whether the source has an end of its own.
        in_memory: whether the examples are arrays.
    """

    repeatable = True
    ends = True
    in_memory = False

    @abc.abstractmethod
    def batches(self):
        """Iterator over all batches `(x, y, sample_weight)` of arrays; labels and weights may be None."""

    @abc.abstractmethod
    def to_fit(self):
        """`(x, keyword arguments, callbacks)` of `fit`, for one training."""

    def first(self):
        """The first batch."""
        return next(iter(self.batches()))

    @abc.abstractmethod
    def held_out(self, fraction):
        """`(what stays, what is held out)`, the same for the same seed; classes by number keep their shares."""

    def validating(self):
        """Keyword arguments of a `fit` that measure on these examples after each epoch."""
        return {"validation_data": self.to_fit()[0]}

    def labels(self):
        """Labels to look at: all of arrays; of a source those of its first batch, and those that lie furthest out in any."""
        return self.first()[1]

    def fingerprint(self):
        """What tells these examples from others as text; None for a source, which may give them in another order each time."""
        return None

    def inputs(self):
        """What `data.examples.take` reads the inputs off, to calibrate and to compare."""
        return lambda: ((x, None) for x, _, _ in self.batches())

    def drawn(self, model, num):
        """So many inputs, one array for each of the model's, drawn from all: the whole of a source is read for it."""
        return take(model, _Whole(self), self._argument, num)


class _Whole:
    """The inputs of a feed as batches whose number is known, so that `take` draws from all of them.

    Args:
        feed: a `Feed`.
    """

    def __init__(self, feed):
        self._feed = feed

    def __len__(self):
        return self._feed.num_batches

    def __iter__(self):
        return ((x, None) for x, _, _ in self._feed.batches())


class Arrays(Feed):
    """Examples in memory: arrays, or structures of arrays.

    Args:
        x, y, weight: structures of arrays `(num, ...)`; `y` and `weight` may be None.
        batch_size, seed: of training.
    """

    in_memory = True

    def __init__(self, x, y=None, weight=None, batch_size=32, seed=0):
        self.x, self.y, self.weight = x, y, weight
        self.batch_size, self.seed = batch_size, seed
        self.num_examples = len(keras.tree.flatten(x)[0])
        self.num_batches = -(-self.num_examples // batch_size)

    def batches(self):
        for start in range(0, self.num_examples, BATCH):
            yield self._part(slice(start, start + BATCH))

    def to_fit(self):
        shuffled = Shuffled(self.x, self.y, self.batch_size, self.seed, self.weight)
        return shuffled, {}, [shuffled.epochs_in_order()]

    def labels(self):
        return self.y

    def fingerprint(self):
        digest = hashlib.sha256()
        for array in map(np.asarray, keras.tree.flatten([part for part in (self.x, self.y, self.weight) if part is not None])):
            digest.update(f"{array.dtype} {array.shape}".encode())
            # Of objects, such as texts, the memory holds addresses.
            flat = np.ascontiguousarray(array).reshape(-1)
            digest.update(repr(flat.tolist()).encode() if array.dtype.hasobject else flat.view("uint8"))
        return digest.hexdigest()

    def inputs(self):
        """In an order in which the first stand for all: labels that are whole numbers are all among them."""
        return self._part(self._order(seed=0))[0]

    def drawn(self, model, num):
        return arrays_of(model, self._part(self._order(seed=0)[:num])[0], "train")

    def held_out(self, fraction):
        num = max(1, round(fraction * self.num_examples))
        if num >= self.num_examples:
            fix = "Pass more examples, or validation=, or lower data.validation."
            expected = "Some examples must stay to train on, and at least one be held out."
            raise ValueError(errors.message(expected, fix, examples=self.num_examples, validation=fraction))
        # Of each class the first stay, so that none is held out whole.
        held = np.sort(self._order(self.seed)[::-1][:num])
        stays = np.setdiff1d(np.arange(self.num_examples), held)
        return tuple(Arrays(*self._part(order), self.batch_size, self.seed) for order in (stays, held))

    def validating(self):
        parts = (self.x, self.y, self.weight)
        return {"validation_data": parts if self.weight is not None else parts[:2], "validation_batch_size": BATCH}

    def _order(self, seed):
        """An order by a seed in which the first stand for all: of classes by number all are among them."""
        labels = splits.class_numbers(self.y)
        if labels is not None:
            return splits.stratified_order(labels, seed)
        return np.random.default_rng(seed).permutation(self.num_examples)

    def _part(self, order):
        def picked(array):
            return None if array is None else array[order]

        return tuple(keras.tree.map_structure(picked, part) for part in (self.x, self.y, self.weight))


class Source(Feed):
    """Batches that can be read anew: of a `tf.data.Dataset`, a `PyDataset`, a function that makes a generator.

    Every batch is looked at whenever it is read, since a source may give others each time.

    Args:
        model: what takes them.
        begin: function that returns an iterator over batches, from the first on.
        argument: for errors.
        to_fit: function of `checked` that returns what Keras trains on; None for batches that are drawn from `begin` in order.
        steps: batches of an epoch where the source has no end; None reads all.
        batch_size, seed: of training on what is held in memory.
    """

    _labels = None  # of what kinds they are in the first batch

    def __init__(self, model, begin, argument, to_fit=None, steps=None, batch_size=32, seed=0):
        self.batch_size, self.seed, self._model = batch_size, seed, model
        self._begin, self._to_fit, self._argument, self._steps = begin, to_fit, argument, steps
        self.ends, self._outlying = steps is None, Outlying()
        self.num_batches, self.num_examples = self._counted()

    def labels(self):
        return self._outlying.beside(self.first()[1])

    def batches(self):
        read = _read(self._begin, self._argument)
        return (self.checked(batch, number) for number, batch in enumerate(itertools.islice(read, self._steps)))

    def checked(self, batch, number):
        """A batch as `(x, y, sample_weight)`; raises where it does not fit the model or is not finite."""
        x, y, weight = parted(batch, self._argument)
        check_batch(x, y, weight, self._argument, batch=number + 1)
        check_fits(self._model, x, self._argument, batch=number + 1)
        self._check_like_first(y, number)
        return x, y, weight

    def _check_like_first(self, y, number):
        """Raises ValueError for labels of another kind than those of the first batch that was read."""
        found = [_kind_of(array) for array in keras.tree.flatten(y)]
        if self._labels is None:
            self._labels = found
        if found != self._labels:
            expected = f"The labels of `{self._argument}` must be alike in all batches: numbers or text, of as many dimensions."
            received = {"batch": number + 1, "labels": ", ".join(found), "of_the_first": ", ".join(self._labels)}
            raise ValueError(errors.message(expected, "Look at what makes them.", **received))

    def to_fit(self):
        if self._to_fit is not None:
            return self._to_fit(self.checked), {} if self._steps is None else {"steps_per_epoch": self._steps}, []
        drawn = Drawn(self._begin, self.num_batches, again=self._steps is None)
        return Watched(drawn, self.checked), {}, []

    def held_out(self, fraction):
        arrays = self._in_memory() if self.ends else None
        if arrays is None:
            fix = "Pass validation=, since batches without end, or of more than 1 GiB, cannot be split."
            raise ValueError(errors.message("Validation examples must be given or held out.", fix, validation=None))
        return arrays.held_out(fraction)

    def _in_memory(self):
        """The examples as `Arrays`; None where they are too many bytes."""
        batches, num_bytes = [], 0
        for batch in self.batches():
            batches.append(batch)
            num_bytes += sum(array.nbytes for array in keras.tree.flatten(batch) if array is not None)
            if num_bytes > _MOST_BYTES:
                return None
        with alike(self._argument, [keras.tree.map_structure(lambda array: array[0], batch[0]) for batch in batches]):
            joined = keras.tree.map_structure(lambda *parts: None if parts[0] is None else np.concatenate(parts), *batches)
        return Arrays(*joined, self.batch_size, self.seed)

    def _counted(self):
        """Batches and examples of an epoch; what is wrong with a batch is found here."""
        num_batches = num_examples = 0
        for x, y, _ in self.batches():
            self._outlying.add(y)
            num_batches += 1
            num_examples += len(keras.tree.flatten(x)[0])
            if num_batches >= _NO_END:
                _refuse_endless(self._argument)
        if not num_batches or self._steps is not None and num_batches < self._steps:
            fix = "A generator can be read once only: pass a function that makes it. Else check the source."
            wanted = "at least one batch" if self._steps is None else f"{self._steps} batches"
            expected = f"`{self._argument}` must yield {wanted}."
            raise ValueError(errors.message(expected, fix, batches=num_batches))
        return num_batches, num_examples


class Once(Source):
    """A generator, of which each epoch draws the next batches; an interrupted training that goes on begins it anew."""

    repeatable = False

    def __init__(self, model, generator, argument, steps):
        self.ends, self._model = False, model
        self._generator, self._argument, self._steps = generator, argument, steps
        self._kept = [batch for batch in itertools.islice(generator, steps)]
        self._begin, self._to_fit, self._outlying = lambda: iter(self._kept), None, Outlying()
        self.num_batches, self.num_examples = self._counted()

    def to_fit(self):
        drawn = Drawn(lambda: self._generator, self.num_batches, again=False, ahead=self._kept)
        return Watched(drawn, self.checked), {}, []


class Drawn(keras.utils.PyDataset):
    """Batches drawn one after the other, so that an epoch takes so many and no more.

    Args:
        begin: function that returns an iterator over batches.
        num: batches of an epoch.
        again: whether every epoch begins anew; else it goes on where the last one ended.
        ahead: batches that were drawn before.
    """

    def __init__(self, begin, num, again, ahead=()):
        super().__init__()
        self._begin, self._num, self._again = begin, num, again
        self._iterator, self._held = None, {}
        self._ahead = list(ahead)

    def __len__(self):
        return self._num

    def __getitem__(self, index):
        # Keras reads the first batches of the first epoch twice, to know their shapes.
        if index not in self._held:
            if index > 1:
                self._held = {}
            if index == 0 and self._again:
                self._iterator = None
            self._held[index] = self._next()
        return self._held[index]

    def _next(self):
        if self._ahead:
            return self._ahead.pop(0)
        self._iterator = self._iterator or self._begin()
        try:
            return next(self._iterator)
        except StopIteration:
            fix = "Lower train.steps, or pass a function that makes the generator, without steps."
            raise ValueError(errors.message("The generator must not end before training does.", fix, steps=self._num)) from None

    def on_epoch_end(self):
        self._held = {}
        if self._again:
            self._iterator = None


def feed(model, given, argument, batch_size=32, seed=0, steps=None):
    """The `Feed` of anything that `fit` takes.

    Args:
        model: what will be trained; its inputs say whether a data set is in batches.
        given: `(x, y)` or `(x, y, sample_weight)` of arrays or structures of arrays, or `x` alone; a `tf.data.Dataset`, in
            batches or not; a `keras.utils.PyDataset`; a generator, with `steps`; a function that makes one.
        argument: its name, for errors.
        batch_size, seed: of training on arrays and on data sets of single examples.
        steps: batches of an epoch, needed where a source has no end.

    Raises:
        TypeError: for what holds no examples.
        ValueError: for a source that yields nothing, or has no end and no `steps`; for arrays that do not fit together, NaN and
            infinity.
    """
    rest = (steps, batch_size, seed)
    if hasattr(given, "element_spec"):
        return _of_dataset(model, given, argument, *rest)
    if isinstance(given, keras.utils.PyDataset):
        return _of_pydataset(model, given, argument, *rest)
    if hasattr(given, "__next__"):
        if steps is None:
            fix = 'Pass a function that makes the generator, or config={"train": {"steps": number of batches an epoch}}.'
            expected = f"`{argument}` must be read in every epoch, and a generator ends."
            raise ValueError(errors.message(expected, fix, type="generator"))
        return Once(model, given, argument, steps)
    if callable(given):
        if is_layer(given):
            raise TypeError(errors.message(f"`{argument}` must hold examples.", _WHAT, **{argument: given}))
        check_takes_nothing(given, argument)
        return Source(model, given, argument, None, *rest)
    return _of_arrays(model, given, argument, batch_size, seed)


def _of_dataset(model, dataset, argument, steps, batch_size, seed):
    cardinality = int(dataset.cardinality())
    if cardinality == -1 and steps is None:
        _refuse_endless(argument)
    if _holds_single(model, listed(dataset.element_spec)[0]):
        dataset = dataset.batch(batch_size)
    if in_structure(model, 0) != 0:
        dataset = dataset.map(lambda x, *rest: (in_structure(model, x), *rest))
    if steps is not None and cardinality != -1:
        dataset = dataset.repeat()
    return Source(model, lambda: iter(dataset.as_numpy_iterator()), argument, lambda check: dataset, steps, batch_size, seed)


def _holds_single(model, specs):
    """Whether the inputs of a `tf.data.Dataset` have no batch axis, by the specs of its elements."""
    structure = input_structure(model)
    tensors = [] if structure is None else keras.tree.flatten(structure)
    if isinstance(specs, dict):  # in the order of the inputs, and no others
        names = sorted(structure) if isinstance(structure, dict) else [tensor.name for tensor in tensors]
        specs = [specs[name] for name in names if name in specs]
    shapes = [spec.shape for spec in keras.tree.flatten(specs)]
    known = [(tuple(shape), tensor) for shape, tensor in zip(shapes, tensors) if shape.rank is not None]
    return bool(known) and all(last_axes.is_single(*pair) for pair in known)


def _of_pydataset(model, source, argument, steps, batch_size, seed):
    with told_of_source(argument):
        num = source.num_batches
    if num is None and steps is None:
        _refuse_endless(argument)

    def begin():
        numbers = itertools.count() if source.num_batches is None else range(source.num_batches)
        return (source[number] for number in numbers)

    return Source(model, begin, argument, lambda check: Watched(source, check), steps, batch_size, seed)


def _of_arrays(model, given, argument, batch_size, seed):
    parts = given if isinstance(given, tuple) and len(given) in (1, 2, 3) else (given,)
    _check_entries(model, given, argument)
    x, y, weight = (*(_structure(part, argument) for part in parts), None, None)[:3]
    num = check_batch(x, y, weight, argument)
    if not num:
        raise ValueError(errors.message(f"`{argument}` must hold at least one example.", "Look at what made it.", examples=num))
    check_fits(model, x, argument)
    if weight is not None and not any(np.any(part > 0) for part in keras.tree.flatten(weight) if part is not None):
        expected = f"One of the sample weights of `{argument}` at least must be above zero: otherwise nothing is learned."
        raise ValueError(errors.message(expected, "Leave them out, or give some examples a weight.", examples=num))
    return Arrays(in_structure(model, x), y, weight, batch_size, seed)


def _check_entries(model, given, argument):
    """Raises for a tuple that `fit` would not part: it could be all inputs, and is if there are as many."""
    structure = input_structure(model)
    if not isinstance(given, tuple) or len(given) <= 3 or structure is None or len(keras.tree.flatten(structure)) == len(given):
        return
    raise ValueError(errors.message(f"`{argument}` must be (x, y) or (x, y, sample_weight).", _WHAT, entries=len(given)))


def _structure(given, argument):
    """Arrays in the structure in which they were given; lists of numbers are arrays, lists of arrays are structures."""
    if given is None:
        return None
    if isinstance(given, dict):
        return {name: _structure(part, argument) for name, part in given.items()}
    if is_sequence(given) and given and not is_number(given[0]) and not is_number(listed(given[0])[0]):
        return tuple(_structure(part, argument) for part in given)
    array = _numpy(given, argument)
    if array.dtype.kind not in "biufSUTO" or not array.ndim:
        raise TypeError(errors.message(f"`{argument}` must hold examples.", _WHAT, **{argument: given}))
    return array


def _read(begin, argument):
    """The batches of a source; what the user's code raises is told with the name of the split."""
    with told_of_source(argument):
        yield from begin()


def parted(batch, argument):
    """`(x, y, sample_weight)` of a batch as `fit` parts it."""
    parts = listed(batch)
    if len(parts) not in (1, 2, 3):
        raise ValueError(
            errors.message(
                f"`{argument}` must yield (x, y) or (x, y, sample_weight).",
                "Put several inputs or outputs into a list or dict of their own.",
                entries=len(parts),
            )
        )

    def array_of(value):
        return _numpy(value, argument)

    parts = tuple(None if part is None else keras.tree.map_structure(array_of, part) for part in parts)
    return (*parts, None, None)[:3]


def _kind_of(labels):
    """What no two batches may differ in."""
    if labels is None:
        return "none"
    return f"{'numbers' if labels.dtype.kind in 'biuf' else 'text'} of {labels.ndim} dimensions"


def _numpy(value, argument):
    """An array, floats in single precision: so `fit` takes arrays, and metrics of a user's own count on it."""
    if value is None:
        return None
    check_unmasked(value, argument)
    try:
        # NumPy alone takes a ragged tensor for one object.
        array = np.asarray(value.numpy() if hasattr(value, "ragged_rank") else value)
    except ValueError as error:  # rows of several lengths
        expected = f"Examples must be arrays; NumPy says: {error}".rstrip(".") + "."
        raise ValueError(errors.message(expected, "Give every example the same shape.", type=type(value).__name__)) from None
    if array.dtype.kind == "O" and array.ndim:
        _check_objects(array, value)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _check_objects(array, given):
    """Raises for arrays of objects other than text, which string tensors and columns of tables become."""
    strange = next((item for item in array.flat if not isinstance(item, (str, bytes))), "")
    if isinstance(strange, str):
        return
    expected, fix = "Examples must be arrays of numbers, or of text.", 'Convert them, as with .astype("float32").'
    if np.ndim(strange):
        fix = "Pad sequences of several lengths to one, as with keras.utils.pad_sequences or RaggedTensor.to_tensor."
    elif strange is None or isinstance(strange, float) and np.isnan(strange):
        fix = "Fill in what is missing, or remove those examples."
    raise TypeError(errors.message(expected, fix, type=type(given).__name__, item=strange))


def check_batch(x, y, weight, argument, **received):
    """The number of examples of a batch, or of all arrays; raises where they do not fit together or are not finite.

    `received` is what an error says of them first, such as the number of the batch.
    """
    named = {"x": x, "y": y, "sample_weight": weight}
    arrays = {name: [array for array in keras.tree.flatten(part) if array is not None] for name, part in named.items()}
    lengths = {name: [len(array) if array.ndim else 0 for array in part] for name, part in arrays.items()}
    found = {length for part in lengths.values() for length in part}
    if len(found) != 1:
        fix = "Every input, label and weight needs as many examples."
        raise ValueError(errors.message(f"`{argument}` must hold arrays of one length.", fix, **received, lengths=lengths))
    for array in arrays["sample_weight"]:
        if array.dtype.kind not in "biuf":
            fix = "Pass one number for each example."
            raise TypeError(errors.message(f"The sample weights of `{argument}` must be numbers.", fix, dtype=str(array.dtype)))
    check_finite(x, y, weight, argument, **received)
    return found.pop()


def _refuse_endless(argument):
    fix = 'Give it an end, as .take(100) does, or for training config={"train": {"steps": number of batches an epoch}}.'
    raise ValueError(errors.message(f"`{argument}` must have an end, or a number of steps.", fix, **{argument: "without end"}))
