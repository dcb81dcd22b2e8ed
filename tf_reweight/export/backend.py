"""What must be there for files to be made: TensorFlow as Keras' backend, and LiteRT."""

import keras

from tf_reweight import errors, extras


def check_backend(what):
    """Raises where no file can be made here: a model that was trained on another backend is exported in another process.

    Args:
        what: what needs it, for the error.

    Raises:
        ImportError: where TensorFlow or LiteRT is not installed.
        ValueError: where Keras runs on another backend.
    """
    extras.check_files(what)
    if keras.backend.backend() != "tensorflow":
        fix = "Save the model, and load it in a process with KERAS_BACKEND=tensorflow to export."
        raise ValueError(errors.message("Only the TensorFlow backend can export.", fix, backend=keras.backend.backend()))
