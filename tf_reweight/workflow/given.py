"""The examples of a run: three splits of whatever the user has, and what is read off them."""

import dataclasses

import keras

from tf_reweight.batch_statistics import are_enough
from tf_reweight.data import Dataset, feeds
from tf_reweight.data.augment import Shifted
from tf_reweight.data.examples import packed, take
from tf_reweight.data.labelled import Labelled
from tf_reweight.graph.batchnorm import following

# Training examples from which statistics of BatchNormalization are estimated, at least and at most; above the least no more
# than this many numbers, 128 MiB.
_EXAMPLES, _NUMBERS = (256, 1024), 2**25


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test examples of a run.

    Attributes:
        train, validation, test: a `data.feeds.Feed` each.
        name: where they came from.
        dataset: the `data.Dataset` behind them, or None: what it knows of classes and of raw values.
        notes: what was done with them that the user should know, in sentences.
        has_test: whether there are test examples of their own; else those of validation play the test.
    """

    train: feeds.Feed
    validation: feeds.Feed
    test: feeds.Feed
    name: str
    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()
    has_test: bool = True

    def training(self, shift=0):
        """`(x, keyword arguments, callbacks)` of a `fit`; images of a `Dataset` move by up to `shift` pixels."""
        if not shift:
            return self.train.to_fit()
        train = self.train
        shifted = Shifted(train.x, train.y, train.batch_size, shift, train.seed, self.dataset.black)
        return shifted, {}, [shifted.epochs_in_order()]

    def validating(self):
        """Keyword arguments of a `fit` that measure on the validation examples after each epoch."""
        return self.validation.validating()

    @property
    def feeds(self):
        """The three, by the names of the splits."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def inputs(self, model, split, num):
        """So many inputs of a split in the structure in which a model takes them, to calibrate and to compare."""
        if split == "train" and self.dataset is not None:
            return self.dataset.representative(num)
        source = self.feeds[split].inputs() if self.dataset is None else self.feeds[split].x
        return packed(model, [array[:num] for array in take(model, source, split, num)])

    def examples(self, model):
        """Training examples that tell what statistics of BatchNormalization are, as `batch_statistics` takes them.

        None where the model has no such layers, or there are too few.
        """
        if not following(model):
            return None
        size = sum(array[0].size for array in keras.tree.flatten(self.train.first()[0]))
        num = min(_EXAMPLES[1], max(_EXAMPLES[0], _NUMBERS // size))
        found = Labelled(self.train.drawn(model, num), None)
        return found if are_enough(model, found.num) else None

    def facts(self):
        """What the report says of them."""
        counts = {f"num_{split}": feed.num_examples for split, feed in self.feeds.items()}
        ranges = {} if self.dataset is None else {
            "subtracted": self.dataset.subtracted, "divided_by": self.dataset.divided_by,
        }  # fmt: skip
        return {"name": self.name, **ranges, **counts, "has_test": self.has_test, "notes": list(self.notes)}


def of_dataset(dataset, batch_size, seed):
    """The `Splits` of a `data.Dataset`."""
    pairs = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (feeds.Arrays(*pair, None, batch_size, seed) for pair in pairs)
    return Splits(train, validation, test, dataset.name, dataset)


def of_anything(model, train, validation, test, settings, seed):
    """The `Splits` of whatever `fit` takes.

    Args:
        model: what will be trained on them.
        train, validation, test: see `data.feeds.feed`; `validation` and `test` may be None.
        settings: the configuration, of which `train.batch_size`, `train.steps` and `data.validation` count.
        seed: of the order and of what is held out.

    Raises:
        TypeError, ValueError: for what cannot be read again and again, yields nothing, or does not fit together.
    """
    batch_size, notes = settings.train.batch_size, []
    read = feeds.feed(model, train, "train", batch_size, seed, settings.train.steps)
    if validation is None:
        read, held_out = _split(read, settings.data.validation, notes)
    else:
        held_out = feeds.feed(model, validation, "validation", batch_size, seed)
    if test is None:
        notes.append("No test examples were given: figures of the test are those of validation.")
    tested = held_out if test is None else feeds.feed(model, test, "test", batch_size, seed)
    if not read.repeatable:
        notes.append("The generator goes on from stage to stage: a run that was interrupted begins it anew.")
    return Splits(read, held_out, tested, _name_of(train), None, tuple(notes), test is not None)


def _split(train, fraction, notes):
    """`(training, validation)` where no validation examples are given."""
    parts = train.held_out(fraction)
    notes.append(f"No validation examples were given: {fraction:.0%} of the training examples were held out.")
    if not train.in_memory:
        notes.append("The source was read once for that: where it gives others each time, pass validation=.")
    return parts


def _name_of(train):
    name = type(train).__name__
    return "arrays" if name in ("tuple", "list", "dict", "ndarray") else name
