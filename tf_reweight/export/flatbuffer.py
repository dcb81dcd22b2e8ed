"""The TFLite flatbuffer as Python objects: reading, the names in it, and the values of constants, packed ones included."""

import functools

import numpy as np

WEIGHT_TYPES = ("FLOAT32", "FLOAT16", "INT8", "UINT8", "INT16", "INT4")
_NUMPY = {"FLOAT32": "float32", "FLOAT16": "float16", "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "INT32": "int32"}


def schema():
    """The generated schema module; imported late, since it is large."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def read(content):
    """A `ModelT` from bytes."""
    return schema().ModelT.InitFromPackedBuf(bytes(content), 0)


def write(model):
    """Bytes of a `ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024 * 1024)
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


def values(model, tensor):
    """The values of a constant in its shape; None for what is computed at run time."""
    stored = raw(model, tensor)
    if stored is None:
        return None
    if tensor.sparsity is not None:
        # Only the stored entries are known to be there; for counting zeros and nonzeros they are enough.
        return stored
    return stored[: int(np.prod(tensor.shape))].reshape(tensor.shape)
