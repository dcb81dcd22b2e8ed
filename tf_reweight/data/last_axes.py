"""The last axis of an input where it has one entry: Keras takes arrays without it, as the columns of a table."""


def fitted(array, tensor):
    """An array with the axes of an input: a last one of one entry is added where it lacks, dropped where it is too many."""
    beyond = array.ndim - len(tensor.shape)
    if beyond == -1 and tensor.shape[-1] == 1:
        return array[..., None]
    if beyond == 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array


def is_single(shape, tensor):
    """Whether something of a shape is one example of an input, without a batch axis.

    Args:
        shape: its sizes, None where they are not known.
        tensor: the symbolic input.

    Example:
        >>> age = keras.Input((1,))
        >>> is_single((1,), age), is_single((), age), is_single((32,), age)
        (True, True, False)
    """
    wanted = tuple(tensor.shape[1:])
    if wanted[-1:] != (1,):
        return len(shape) == len(wanted)
    # A batch without the last axis has as many axes as an example: it is told by its sizes.
    alike = all(size in (None, given) or given is None for size, given in zip(wanted, shape))
    return len(shape) == len(wanted) - 1 or len(shape) == len(wanted) and shape[-1] == 1 and alike
