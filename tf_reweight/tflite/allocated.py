"""Whether the operations of a file compute as many numbers as the file has room for."""

import math

from tf_reweight import errors
from tf_reweight.tflite import constants


def check(model, interpreter, name):
    """Raises ValueError where LiteRT gives a tensor another number of entries than the file says it has.

    A delegate believes the file, and writes outside of its memory then: the process dies, or its numbers are wrong. Sizes that
    a file leaves open are not compared.

    Args:
        model: the parsed file; see `flatbuffer.parse`.
        interpreter: one of it without a delegate, its tensors allocated in the file's own sizes.
        name: of the file, for the message.
    """
    graph = model.subgraphs[0]
    allocated = {detail["index"]: detail["shape"] for detail in interpreter.get_tensor_details()}
    for operator in graph.operators:
        for index in map(int, operator.outputs):
            tensor = graph.tensors[index]
            said = () if tensor.shape is None else tuple(map(int, tensor.shape))
            signature = () if tensor.shapeSignature is None else tensor.shapeSignature
            if not said or index not in allocated or -1 in said or -1 in list(signature):
                continue
            found = tuple(map(int, allocated[index]))
            if math.prod(found) != math.prod(said):
                named = constants.shown(tensor)
                expected = f"Every operation must give as many numbers as the file says; for {named} it says {said}."
                raise ValueError(errors.message(expected, "It was damaged: copy it anew.", file=str(name), shape=found))
