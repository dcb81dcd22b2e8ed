"""Running a `.tflite` on raw arrays, by position.

Needs nothing but LiteRT and NumPy, so that an emulated Python, which has no TensorFlow, runs this very file as a script:
`python litert.py FOLDER` reads `model.tflite` and `inputs.npz` there, and writes one file of outputs for each of `RUNS`.
"""

import pathlib
import sys

import numpy as np

# How every file is run that is checked: name to whether LiteRT's default delegate, XNNPACK, is on.
RUNS = {"with": True, "without": False}


def load(content, delegate, num_threads=1, shapes=None):
    """An interpreter with its tensors allocated, with or without the default delegate (XNNPACK).

    Args:
        content: the bytes.
        delegate: whether to use the default delegate.
        num_threads: of the interpreter.
        shapes: function from an interpreter to one shape per input in the file's order, for sizes that a file leaves open. They
            are set before tensors are allocated: few networks take the single pixel that an open size is otherwise.
    """
    from ai_edge_litert import interpreter as litert  # here: training on another backend needs none

    resolvers = litert.OpResolverType
    made = litert.Interpreter(
        model_content=content,
        num_threads=num_threads,
        experimental_op_resolver_type=resolvers.AUTO if delegate else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    if shapes is not None:
        for detail, shape in zip(made.get_input_details(), shapes(made), strict=True):
            if tuple(detail["shape"]) != tuple(shape):
                made.resize_tensor_input(detail["index"], shape)
    made.allocate_tensors()
    return made


def operations(interpreter):
    """What an interpreter runs: dicts with `index`, `op_name`, `inputs` and `outputs`."""
    # The one list of operations behind the delegate that LiteRT's Python interface has.
    return interpreter._get_ops_details()


def run(content, inputs, delegate):
    """Raw outputs of a file.

    Args:
        content: the bytes.
        inputs: one array `(num, ...)` per input of the file, in its order and types; the rest is the input's own shape.
        delegate: whether to use the default delegate.

    Returns:
        List of arrays `(num, ...)`, one per output, in the file's order.
    """
    return feed(load(content, delegate, shapes=lambda _: [np.shape(array)[1:] for array in inputs]), inputs)


def feed(interpreter, inputs):
    """`run` on a loaded interpreter."""
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    made = [[] for _ in targets]
    for example in zip(*inputs, strict=True):
        for detail, array in zip(sources, example, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        for arrays, detail in zip(made, targets):
            arrays.append(interpreter.get_tensor(detail["index"]))
    return [np.stack(arrays) for arrays in made]


def save_arrays(path, arrays):
    """Writes a list of arrays."""
    np.savez(path, **{f"{position:06d}": array for position, array in enumerate(arrays)})


def load_arrays(path):
    """The list again."""
    with np.load(path) as stored:
        return [stored[name] for name in sorted(stored.files)]


def main(folder):
    """Runs what lies in a folder with and without the default delegate; `inputs.npz` names the arrays by their position."""
    content, inputs = (folder / "model.tflite").read_bytes(), load_arrays(folder / "inputs.npz")
    for name, delegate in RUNS.items():
        save_arrays(folder / f"{name}.npz", run(content, inputs, delegate))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
