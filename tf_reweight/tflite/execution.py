"""Running a `.tflite` in LiteRT, fed and read in real numbers."""

import functools

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_classes, check_flags, check_holds, check_integer
from tf_reweight.files import as_path, check_is_file
from tf_reweight.tflite import allocated, compiled, constants, flatbuffer, litert, refusals
from tf_reweight.tflite import shapes as input_shapes
from tf_reweight.tflite.ends import in_order


# No machine has more; LiteRT dies of numbers that its integers do not hold.
_MOST_THREADS = 1024
_COPY_ANEW = "It was damaged: copy it anew."


def check_threads(num_threads):
    """Raises ValueError unless it is a number of threads."""
    check_integer("num_threads", num_threads, 1, _MOST_THREADS, fix="Count the processor's large cores.")


class Runner:
    """A `.tflite` ready to run, one example at a time, as a phone does.

    Args:
        source: path of a file, or its bytes.
        num_threads: threads of the interpreter; None leaves them to LiteRT.
        delegate: whether to use the default delegate (XNNPACK) or the reference-checked built-in kernels alone.
        shapes: of inputs whose sizes the file leaves open: one whole shape as `(1, 224, 224, 3)`, or a dict by input name.
        name: what messages call a file whose bytes are given.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that LiteRT does not load, or shapes that it does not take.

    Example:
        >>> Runner("model.tflite")([x_test])[0].shape
        (10000, 10)
    """

    def __init__(self, source, num_threads=1, delegate=True, shapes=None, name=None):
        check_flags(delegate=delegate)
        if num_threads is not None:
            check_threads(num_threads)
            num_threads = int(num_threads)  # LiteRT takes no number of NumPy
        content = source if isinstance(source, bytes) else read_file(source)
        name = (name or f"{len(source)} bytes") if isinstance(source, bytes) else source
        # LiteRT believes what a file says of itself, and takes the process along where that is not so.
        model = constants.parse(content, name)
        _check_names(model, name)
        given = None if shapes is None else functools.partial(_shapes, shapes)
        if given is None:
            allocated.check(model, _loaded(content, name, False), name)
        self._interpreter = _loaded(content, name, delegate, num_threads, given)
        self.content = content
        self.inputs, self.outputs = _details(self._interpreter)

    @property
    def input_details(self):
        """LiteRT's details of the inputs, in the order of the file."""
        return self._interpreter.get_input_details()

    @property
    def operations(self):
        """LiteRT's list of what it runs: the file's operations in order, then a `DELEGATE` for each part that one takes."""
        return litert.operations(self._interpreter)

    def __call__(self, arrays, output_names=None):
        """Outputs for many examples.

        Args:
            arrays: array `(num, ...)` of the only input, a list of arrays in the order of `inputs`, or a dict by name. A file
                knows no order but that of its names, which need not be the model's: pass a dict where there are several.
            output_names: order of the outputs; default that of `outputs`, by their names as well.

        Returns:
            List of float32 arrays `(num, ...)`; integers stay integers.

        Raises:
            ValueError: for other inputs, or examples of another shape, than the file takes.
        """
        return self.decoded(litert.feed(self._interpreter, self.encoded(arrays)), output_names)

    def call_compiled(self, arrays, output_names=None, run=compiled.run):
        """What a call returns, computed by `CompiledModel` instead of the interpreter.

        Args:
            arrays, output_names: as for a call.
            run: `compiled.run`, or `apart.compiled_run` for a process of its own.

        Raises:
            compiled.Unavailable: where this LiteRT has none, it names the inputs otherwise, or an input is passed through.
            RuntimeError: for a file that it does not load or run.
        """
        return self.decoded(self.compiled_raw(self.encoded(arrays), run), output_names)

    def compiled_raw(self, raw, run=compiled.run):
        """Raw outputs `(num, 1, ...)` of `CompiledModel` from raw inputs, both in the order of the file."""
        indices = {detail["index"] for detail in self.input_details}
        through = [name for name, detail in self.outputs.items() if detail["index"] in indices]
        if through:
            raise compiled.Unavailable(f"CompiledModel writes nothing for an output that is an input: {', '.join(through)}")
        made = run(self.content, dict(zip(self._in_order(self.inputs, self.input_details), raw)))
        return [made[name] for name in self._in_order(self.outputs, self._interpreter.get_output_details())]

    def _in_order(self, ends, details):
        """Names of inputs or outputs in the order of the file."""
        names = {detail["index"]: name for name, detail in ends.items()}
        return [names[detail["index"]] for detail in details]

    def encoded(self, arrays):
        """Arrays as for a call, as raw ones `(num, 1, ...)` in the order and the types of the file."""
        if not isinstance(arrays, dict):
            listed = arrays if isinstance(arrays, (list, tuple)) else [arrays]
            if len(listed) != len(self.inputs):
                self._refuse(len(listed))
            arrays = dict(zip(self.inputs, listed))
        self._check(arrays)
        order = self._in_order(self.inputs, self.input_details)
        return [_quantized(np.asarray(arrays[name])[:, None], self.inputs[name], name) for name in order]

    def decoded(self, outputs, output_names=None):
        """What a call returns, from raw outputs `(num, 1, ...)` in the order of the file."""
        positions = {detail["index"]: i for i, detail in enumerate(self._interpreter.get_output_details())}
        details = [self.outputs[name] for name in output_names or self.outputs]
        return [np.concatenate(_real(outputs[positions[detail["index"]]], detail)) for detail in details]

    def _check(self, arrays):
        if set(arrays) != set(self.inputs):
            self._refuse(list(arrays))
        for name, array in arrays.items():
            wanted = tuple(map(int, self.inputs[name]["shape"]))
            if wanted[:1] != (1,) or np.shape(array)[1:] != wanted[1:]:
                raise ValueError(
                    errors.message(
                        f"Input {name!r} takes examples of shape {wanted[1:]}, one at a time.", "Choose matching data.",
                        shape=np.shape(array), batch=wanted[0] if wanted else None,
                    )
                )  # fmt: skip

    def _refuse(self, inputs):
        raise ValueError(
            errors.message(f"The file takes the inputs {list(self.inputs)}.", "Pass one array for each.", inputs=inputs)
        )

    def set(self, name, value):
        """Sets one input, in real numbers."""
        detail = self.inputs[name]
        self._interpreter.set_tensor(detail["index"], _quantized(np.asarray(value), detail, name))

    @property
    def raw_inputs(self):
        """The inputs as they are set, a dict of raw arrays by name."""
        return {name: self._interpreter.get_tensor(detail["index"]) for name, detail in self.inputs.items()}

    def invoke(self):
        """Computes once."""
        self._interpreter.invoke()

    def get(self, name):
        """One output, in real numbers."""
        detail = self.outputs[name]
        return _real(self._interpreter.get_tensor(detail["index"]), detail)


def _check_names(model, name):
    """Raises where a name is no text: LiteRT's Python interface tells nothing of such a file's tensors."""
    for tensor in model.subgraphs[0].tensors:
        try:
            (tensor.name or b"").decode()
        except UnicodeDecodeError as error:
            expected = "Names of tensors must be UTF-8, or LiteRT's Python interface reads nothing."
            raise ValueError(errors.message(expected, _COPY_ANEW, file=str(name), tensor=tensor.name)) from error


def _loaded(content, name, *options):
    """`litert.load`, which says of what LiteRT refuses why."""
    try:
        return litert.load(content, *options)
    except input_shapes.Unfit:
        raise
    except (ValueError, RuntimeError) as error:
        raise ValueError(refusals.message(content, error, name)) from error


def _details(interpreter):
    """Details of inputs and outputs by name, in the signature's terms where there is one."""
    signatures = list(interpreter.get_signature_list())
    if len(signatures) == 1 and signatures[0]:  # LiteRT runs none of which the name is empty
        runner = interpreter.get_signature_runner(signatures[0])
        ends = (runner.get_input_details(), runner.get_output_details())
        return tuple({name: details[name] for name in in_order(details)} for details in ends)
    details = (interpreter.get_input_details(), interpreter.get_output_details())
    return tuple({item["name"]: item for item in group} for group in details)


def _shapes(given, interpreter):
    """The shape of each input in the order of the file, with those that are given by the signature's names."""
    inputs, _ = _details(interpreter)
    wanted = input_shapes.checked(given, inputs)
    by_index = {detail["index"]: wanted[name] for name, detail in inputs.items()}
    return [by_index[detail["index"]] for detail in interpreter.get_input_details()]


def evaluate_tflite(path, x, y, num_threads=1):
    """Top-1 accuracy of a classifier file on a data set, executed one example at a time.

    Args:
        path: the file, or its bytes.
        x: inputs `(num, ...)`.
        y: integer labels `(num,)`.
        num_threads: threads of the interpreter.

    Returns:
        float in [0, 1].

    Example:
        >>> evaluate_tflite("model.tflite", *data.test)
    """
    x = np.asarray(x)
    if x.shape[:1] != np.shape(y)[:1] or not x.size:
        expected = "Expected as many inputs as labels, at least one."
        raise ValueError(errors.message(expected, "Pass arrays.", x=x.shape, y=np.shape(y)))
    check_classes(y, x.shape[:1])
    outputs = Runner(path, num_threads)([x])
    if len(outputs) != 1 or outputs[0].ndim != 2:
        shapes = [output.shape for output in outputs]
        raise ValueError(
            errors.message("Expected a classifier with one output (batch, classes).", "Use Runner.", outputs=shapes)
        )
    return float(np.mean(outputs[0].argmax(-1) == np.asarray(y)))


def read_file(path):
    """The bytes of a `.tflite` file.

    Raises:
        FileNotFoundError: when there is no such file.
        IsADirectoryError: when it is a folder.
        ValueError: when it is not in the TFLite format, or over 2 GiB; the latter is found before it is read.
    """
    path = as_path("path", path)
    if path.is_dir():
        inside = ", ".join(found.name for found in sorted(path.glob("*.tflite"))[:3])
        fix = f"Name a file in it, such as {inside}." if inside else "Name a file; there is none in it that ends in .tflite."
        raise IsADirectoryError(errors.message("The .tflite file must be a file, and this is a folder.", fix, file=str(path)))
    check_is_file(path, "The .tflite file", file=str(path))
    flatbuffer.check_size(path.stat().st_size, path)
    content = path.read_bytes()
    check_format(content, path)
    return content


def check_format(content, name):
    """Raises ValueError unless the bytes carry TFLite's file identifier."""
    if len(content) < 16 or content[4:8] != b"TFL3":
        fix = "It is another format, or was cut off or damaged: convert or copy it anew."
        raise ValueError(errors.message("The file must be a TFLite flatbuffer.", fix, file=str(name), start=bytes(content[:8])))


def _quantized(value, detail, name):
    dtype = detail["dtype"]
    scale, zero_point = detail["quantization"]
    if np.issubdtype(dtype, np.integer) and scale:
        limits = np.iinfo(dtype)
        value = np.clip(np.round(value / scale) + zero_point, limits.min, limits.max)
    else:
        check_holds(dtype, value, name, "this input of the file")
    return value.astype(dtype)


def _real(value, detail):
    scale, zero_point = detail["quantization"]
    if np.issubdtype(detail["dtype"], np.integer) and scale:
        return ((value.astype("float32") - zero_point) * scale).astype("float32")
    return value.astype("float32") if value.dtype == np.float16 else value.copy()
