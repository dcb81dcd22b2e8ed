"""Why LiteRT does not load a file, in words that say what to do about it."""

import importlib.metadata

from tf_reweight import errors
from tf_reweight.tflite import flatbuffer, operations
from tf_reweight.tflite.file_graph import Graph

# What LiteRT says of operations, or of versions of them, that it does not have.
_TOO_NEW = ("Didn't find op for builtin opcode", "newer model", "schema version", "Op builtin_code out of range")
# What LiteRT's own look at a flatbuffer says, which finds more than the schema's reader.
_DAMAGED = "not a valid Flatbuffer"
_UPDATE = "Update it (pip install -U ai-edge-litert), or convert the model with the version that runs it."


def message(content, error, name):
    """An error message.

    Args:
        content: the bytes that LiteRT refused; a file that `flatbuffer.parse` takes.
        error: what it raised.
        name: of the file.
    """
    said = " ".join(str(error).split())
    if _DAMAGED in said:
        return flatbuffer.unfit(content, name)
    model = flatbuffer.parse(content, name)
    foreign = operations.foreign(name for number in range(len(model.subgraphs)) for name in Graph(model, number).names)
    if foreign:
        expected = f"The file must have LiteRT's own operations alone to run here. {'. '.join(foreign)}."
        return errors.message(expected, "Replace the layers that they come from.", file=str(name))
    if _is_too_new(model, said):
        version = importlib.metadata.version("ai-edge-litert")
        expected = f"The file must be of operations that ai-edge-litert {version} knows; it says: {said[:300]}"
        return errors.message(expected.rstrip(".") + ".", _UPDATE, file=str(name), schema=model.version)
    open_inputs = _open_inputs(Graph(model))
    expected = f"The file must load in LiteRT, which says: {said[:300]}".rstrip(".") + "."
    fix = "Where it leaves sizes of inputs open, pass `shapes` (--shape); else convert the model anew."
    return errors.message(expected, fix, file=str(name), **({"open_inputs": open_inputs} if open_inputs else {}))


def _open_inputs(graph):
    """Shapes of the inputs whose sizes a file leaves open, by the names of their tensors; -1 where they are."""
    found = {(graph.tensors[index].name or b"").decode(errors="replace"): index for index in graph.inputs}
    return {
        name: tuple(int(size) for size in graph.tensors[index].shapeSignature)
        for name, index in found.items()
        if graph.has_open_size(index)
    }


def _is_too_new(model, said):
    numbers = [name for number in range(len(model.subgraphs)) for name in Graph(model, number).names if name.isdigit()]
    return bool(numbers) or any(words in said for words in _TOO_NEW)
