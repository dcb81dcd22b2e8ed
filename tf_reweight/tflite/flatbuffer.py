"""The TFLite flatbuffer as Python objects: reading, the names in it, and the values of constants, packed ones included."""

import functools
import itertools
import struct

import numpy as np

from tf_reweight import errors, extras

WEIGHT_TYPES = ("FLOAT32", "FLOAT16", "INT8", "UINT8", "INT16", "INT4")
_NUMPY = {
    "FLOAT32": "float32", "FLOAT16": "float16", "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "INT32": "int32",
    "INT64": "int64",
}  # fmt: skip
DAMAGE = (struct.error, IndexError, KeyError, UnicodeDecodeError, AttributeError, TypeError, ValueError)
_ALIGNMENT = 16
LIMIT = 2**31
_FIX = "It is another format, or was cut off or damaged: convert or copy it anew."


def schema():
    """The generated schema module; imported late, since it is large."""
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError:
        extras.check_files("Reading a .tflite")
        raise

    return schema_py_generated


def read(content):
    """A `ModelT` from bytes; weights that lie behind the flatbuffer, where litert-quantizer puts large ones, are taken in."""
    content = bytes(content)
    model = schema().ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers or []:
        if buffer.offset > 1 and 0 < buffer.size <= len(content) - buffer.offset:
            buffer.data = np.frombuffer(content, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def check_bytes(content):
    """Raises TypeError for what are no bytes, such as the path of a file."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        fix = "Read the file first, or use the function that takes paths."
        raise TypeError(errors.message("Expected the bytes of a .tflite.", fix, content=type(content).__name__))


def parse(content, name="content"):
    """A `ModelT` from bytes that may be anything.

    Args:
        content: the bytes.
        name: how an error calls them.

    Raises:
        TypeError: when these are no bytes.
        ValueError: when they are no TFLite flatbuffer, are cut off, or keep weights outside the file.
    """
    check_bytes(content)
    content = bytes(content)
    if len(content) < 16 or content[4:8] != b"TFL3":
        raise ValueError(errors.message("The file must be a TFLite flatbuffer.", _FIX, file=str(name), start=content[:8]))
    try:
        model = read(content)
        _check_indices(model)
    except DAMAGE as error:
        raise ValueError(unfit(content, name)) from error
    check_size(len(content), name)
    if any(buffer.offset > 1 for buffer in model.buffers):
        expected = "All weights must lie inside the file; some of this one's do not."
        raise ValueError(errors.message(expected, _FIX, file=str(name), num_bytes=len(content)))
    return model


def unfit(content, name):
    """What to say of bytes that begin as a TFLite flatbuffer and cannot be read as one."""
    expected = "The file must be a whole TFLite flatbuffer; the parts of this one do not fit together."
    return errors.message(expected, _FIX, file=str(name), num_bytes=len(content))


def check_size(num_bytes, name):
    """Raises ValueError for what is too large for a flatbuffer."""
    if num_bytes >= LIMIT:
        expected = "A .tflite must be smaller than 2 GiB, where flatbuffers end."
        raise ValueError(errors.message(expected, "Split the model.", file=str(name), num_bytes=num_bytes))


def _check_indices(model):
    """Raises one of `DAMAGE` where something points outside its list, a constant is not as long as its shape says, or what
    users name inputs and outputs by is no text."""
    if not model.subgraphs:
        raise IndexError("graph")
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                raise IndexError("buffer")
            data = model.buffers[tensor.buffer].data
            kind = dtype_name(tensor)
            if data is not None and len(data) and tensor.sparsity is None and kind in _NUMPY and tensor.shape is not None:
                if len(data) != int(np.prod(tensor.shape, dtype="int64")) * np.dtype(_NUMPY[kind]).itemsize:
                    raise IndexError("values")
        lists = [graph.inputs, graph.outputs, *(x for op in graph.operators for x in (op.inputs, op.outputs))]
        for indices in lists:
            if indices is not None and len(indices) and not -1 <= min(indices) <= max(indices) < len(graph.tensors):
                raise IndexError("tensor")
        if any(not 0 <= op.opcodeIndex < len(model.operatorCodes) for op in graph.operators):
            raise IndexError("operation")
    for signature in model.signatureDefs or []:
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            raise IndexError("signature")
        (signature.signatureKey or b"").decode()
        graph = model.subgraphs[signature.subgraphIndex]
        for ends, indices in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs)):
            for end in ends or []:
                if end.tensorIndex not in indices or end.name is None:
                    raise IndexError("signature")
                end.name.decode()


def name_ends(model):
    """Gives the tensors of a model's inputs and outputs the names that its only signature has for them; in place.

    One whose own name is empty does not count: LiteRT runs none of that name, and all know the tensors by their own names.
    """
    signatures = model.signatureDefs or []
    if len(signatures) != 1 or not signatures[0].signatureKey:
        return
    (signature,) = signatures
    tensors = model.subgraphs[signature.subgraphIndex].tensors
    # An output that is an input, unchanged, keeps the name of the input.
    for end in [*(signature.outputs or []), *(signature.inputs or [])]:
        tensors[end.tensorIndex].name = end.name


def shorten_names(model):
    """Leaves one name where the converter joined those of all operations it merged by ";"; in place, names stay unique.

    The joined names are 3 % of a packed file of 13 KB, and no table has room for them.
    """
    for graph in model.subgraphs:
        joined = [tensor for tensor in graph.tensors if b";" in (tensor.name or b"")]
        taken = {tensor.name for tensor in graph.tensors} - {tensor.name for tensor in joined}
        # A bias is called as its operation's output is, which gets the plain name.
        for tensor in sorted(joined, key=lambda tensor: raw(model, tensor) is not None):
            first = next((part for part in tensor.name.split(b";") if part), b"merged")
            candidates = itertools.chain([first], (b"%s_%d" % (first, number) for number in itertools.count(1)))
            tensor.name = next(name for name in candidates if name not in taken)
            taken.add(tensor.name)


def write(model):
    """Bytes of a `ModelT`."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def StartVector(self, elemSize, numElems, alignment):
            # Weights must lie as kernels load them; the object API forgets the schema's alignment of 16.
            aligned = elemSize == 1 and numElems >= _ALIGNMENT
            return super().StartVector(elemSize, numElems, _ALIGNMENT if aligned else alignment)

    builder = Builder(1024 * 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@functools.cache
def _names(enumeration):
    values = vars(getattr(schema(), enumeration))
    return {value: name for name, value in values.items() if isinstance(value, int)}


def op_name(model, operator):
    """`"CONV_2D"` and the like; custom operations by their own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _names("BuiltinOperator").get(number, str(number))
    return f"CUSTOM {(code.customCode or b'').decode(errors='replace')}" if name == "CUSTOM" else name


def enumeration_name(enumeration, value):
    """The schema's name of a number, as `"RELU6"` of `"ActivationFunctionType"`."""
    return _names(enumeration).get(value, str(value))


def dtype_name(tensor):
    """`"INT8"` and the like."""
    return _names("TensorType").get(tensor.type, str(tensor.type))


def raw(model, tensor):
    """The stored numbers of a constant, flat, one per entry; None for what is computed at run time."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    data = np.asarray(data, "uint8")
    kind = dtype_name(tensor)
    if kind == "INT4":
        nibbles = np.stack([data & 15, data >> 4], axis=1).reshape(-1).astype("int8")
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype("int8")
    return data.view(_NUMPY[kind]) if kind in _NUMPY else None
