"""The values of constant tensors of a file."""

import math

from tf_reweight import errors
from tf_reweight.tflite import flatbuffer, sparse_layout
from tf_reweight.tflite.flatbuffer import raw


def values(model, tensor):
    """The values of a constant in its shape; None for what is computed at run time."""
    stored = raw(model, tensor)
    if stored is None:
        return None
    if tensor.sparsity is not None:
        return sparse_layout.decode(stored, tensor.sparsity, tuple(int(size) for size in tensor.shape))
    # A single number has no shape in the file.
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    return stored[: math.prod(shape)].reshape(shape)


def kernels(model):
    """Of each operation and each constant float32 kernel that it reads, `(operator, kernel's tensor, values)`, in order.

    Args:
        model: a parsed file; see `flatbuffer.parse`.
    """
    tensors = model.subgraphs[0].tensors
    for operator in model.subgraphs[0].operators:
        for index in list(operator.inputs)[:2]:
            stored = values(model, tensors[index]) if index >= 0 else None
            if stored is not None and stored.ndim > 1 and stored.dtype == "float32":
                yield operator, tensors[index], stored


def parse(content, name="content"):
    """`flatbuffer.parse`; raises ValueError also for damaged sparse constants, as every reader of files of anybody's should."""
    model = flatbuffer.parse(content, name)
    check(model, name)
    return model


def check(model, name):
    """Raises ValueError where the sparse constants of a parsed file are damaged, of which LiteRT would die."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.sparsity is not None:
                try:
                    values(model, tensor)
                except flatbuffer.DAMAGE as error:
                    expected = f"The sparse weights of the file must be whole; of {shown(tensor)} they are not: {error}"
                    fix = "It was damaged: copy it anew."
                    raise ValueError(errors.message(expected, fix, file=str(name))) from error


def shown(tensor):
    """A tensor's name as messages have it."""
    return repr((tensor.name or b"").decode(errors="replace"))
