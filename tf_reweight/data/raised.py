"""What reading batches raises comes out of a training as it is: TensorFlow puts an error of its own in its place."""

import contextlib

import keras

from tf_reweight import errors


@contextlib.contextmanager
def told_of_source(argument):
    """Within it, what a source of the user's raises before training is told with the name of the argument it was given as."""
    try:
        yield
    except Exception as error:
        expected = f"`{argument}` must yield batches; reading it raised {type(error).__name__}: {error}".rstrip(".") + "."
        raise ValueError(errors.message(expected, "Mend the source, and start again.", error=type(error).__name__)) from error


class Watched(keras.utils.PyDataset):
    """A `PyDataset` that reads another one, and keeps the first exception which that raised.

    Args:
        source: the `keras.utils.PyDataset`.
        check: function `(batch, its number, from 0)` that raises for a batch that may not be trained on. Other processes, which
            would each need all that it knows, read without it.
    """

    def __init__(self, source, check):
        super().__init__(source.workers, source.use_multiprocessing, source.max_queue_size)
        self.source, self.error = source, None
        self._check = None if source.use_multiprocessing else check

    @property
    def num_batches(self):
        return self.source.num_batches

    def __getitem__(self, index):
        try:
            batch = self.source[index]
            if self._check is not None:
                self._check(batch, index)
            return batch
        except Exception as error:
            self.error = self.error or error
            raise

    def on_epoch_begin(self):
        self.source.on_epoch_begin()

    def on_epoch_end(self):
        self.source.on_epoch_end()


@contextlib.contextmanager
def as_raised(*sources):
    """Within it, an exception that one of the sources has kept is raised in place of what was made of it.

    Args:
        sources: what `fit` is given; those that are not `Watched` have kept nothing.
    """
    try:
        yield
    except Exception as error:
        kept = [source.error for source in sources if isinstance(source, Watched) and source.error is not None]
        if not kept or kept[0] is error:
            raise
        raise kept[0] from error
