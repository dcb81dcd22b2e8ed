"""LiteRT metadata inside a `.tflite`: what its inputs and outputs mean, labels and normalisation, read by apps and tools.

The metadata is a flatbuffer of its own (identifier M001) in one of the file's buffers; the label file it names is a zip archive
appended to the file, which LiteRT ignores and every zip tool reads. Of the public schema only what a classifier or a regressor
needs is written; field numbers below are those of the schema.
"""

import io
import zipfile

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_text
from tf_reweight.tflite import flatbuffer

LABELS = "labels.txt"
_ENTRY, _IDENTIFIER, _PARSER_VERSION = b"TFLITE_METADATA", b"M001", "1.0.0"
_AXIS_LABELS, _NORMALIZATION = 2, 1
_FEATURES, _IMAGE = 1, 2
_COLOURS = {3: 1, 1: 2}
_KINDS = {_FEATURES: "features", _IMAGE: "image"}


def annotate(content, labels=None, normalization=None, name="model", description=""):
    """Writes into a `.tflite` what an app must know of it; what it computes stays the same, bit for bit.

    Its inputs and outputs get the names that its signature has for them.

    Labels and normalisations that the file has stay where none are given, and so do other files attached to it; what else
    another tool wrote into its metadata is replaced.

    Args:
        content: the bytes.
        labels: names of the classes in the order of the output that has as many entries; or None.
        normalization: `(mean, std)`: the input is `(raw - mean) / std`, as `(0, 255)` for pixels divided by 255; each a number
            or one per channel. A dict by input name for files of several inputs. None where raw values go in as they are.
        name: of the model.
        description: of the model, in words.

    Returns:
        bytes.

    Raises:
        ValueError: when it is no TFLite flatbuffer, when labels fit no output or several, or a normalisation cannot be.

    Example:
        >>> annotated = annotate(content, ["cat", "dog"], (0, 255), "pets")
        >>> read(annotated)["outputs"][0]["labels"]
        ['cat', 'dog']
    """
    check_text("name", name, optional=False)
    check_text("description", description)
    model = flatbuffer.parse(content)
    flatbuffer.name_ends(model)
    graph = model.subgraphs[0]
    inputs, outputs = ([graph.tensors[int(i)] for i in ends] for ends in (graph.inputs, graph.outputs))
    before = read(content) or {"inputs": [], "outputs": []}
    if labels is None:
        labels = next((item["labels"] for item in before["outputs"] if item["labels"]), None)
    labelled = _labelled(outputs, labels)
    steps = _steps(inputs, normalization)
    for position, item in enumerate(before["inputs"][: len(inputs)]):
        if steps[position] is None and item["mean"] and item["std"]:
            steps[position] = item["mean"], item["std"]
    writer = _Writer()
    ends = (
        [writer.tensor(tensor, step) for tensor, step in zip(inputs, steps)],
        [writer.tensor(tensor, labels=position == labelled) for position, tensor in enumerate(outputs)],
    )
    _set_buffer(model, writer.finish(name, description, *ends))
    attached = attached_files(content)
    if labels is not None:
        attached[LABELS] = "".join(f"{label}\n" for label in labels).encode()
    return attach(flatbuffer.write(model), attached)


def read(content):
    """The metadata of a `.tflite`, whoever wrote it.

    Returns:
        Dict with `name`, `description`, `inputs` and `outputs`: per tensor a dict with `name`, `description`, `kind`
        (`"image"`, `"features"` or None), `mean` and `std` (lists; None without normalisation) and `labels` (a list; None
        without). None for a file without metadata.

    Raises:
        ValueError: when it is no TFLite flatbuffer, or its metadata is damaged.
    """
    model = flatbuffer.parse(content)
    entry = next((item for item in model.metadata or [] if item.name == _ENTRY), None)
    if entry is None:
        return None
    try:
        attached = attached_files(content)
        root = _Reader.root(bytes(bytearray(model.buffers[entry.buffer].data)))
        graphs = root.tables(3)
        ends = [[_tensor_figures(item, attached) for item in graphs[0].tables(slot)] if graphs else [] for slot in (2, 3)]
        return {"name": root.text(0), "description": root.text(1), "inputs": ends[0], "outputs": ends[1]}
    except flatbuffer.DAMAGE as error:
        fix = "Write it anew, or convert the model anew."
        raise ValueError(errors.message("The metadata of the file must be whole.", fix, num_bytes=len(content))) from error


def attached_files(content):
    """The files in the zip archive at a `.tflite`'s end, as a dict of bytes by name; empty without one."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, OSError):
        return {}  # weights may happen to look like the end of an archive


def attach(content, files):
    """Appends files as a zip archive, stored as they are, since readers on phones do not decompress.

    Args:
        content: bytes of a `.tflite` without attached files.
        files: mapping of name to bytes; empty changes nothing.
    """
    if not files:
        return content
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # ZipInfo's own date, so that the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def _labelled(outputs, labels):
    """Position of the output that labels belong to; None without labels."""
    if labels is None:
        return None
    if isinstance(labels, (str, bytes)) or np.ndim(labels) != 1:
        fix = "Pass a list of names; the command line takes a file of them."
        raise TypeError(errors.message("Labels must be names, one for each class.", fix, labels=labels))
    labels, shapes = list(labels), [[int(size) for size in tensor.shape] for tensor in outputs]
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip() or "\n" in label]
    if wrong:
        raise ValueError(errors.message("Labels must be names of one line.", "Name every class.", labels=wrong))
    fitting = [position for position, shape in enumerate(shapes) if shape and shape[-1] == len(labels)]
    if len(fitting) != 1:
        fix = "Pass one for each class, in the order of the outputs."
        raise ValueError(errors.message("There must be one label per output class.", fix, labels=len(labels), outputs=shapes))
    return fitting[0]


def _steps(inputs, normalization):
    """One `(mean, std)` of two lists, or None, per input."""
    if normalization is None:
        return [None] * len(inputs)
    names = [tensor.name.decode(errors="replace") for tensor in inputs]
    if not isinstance(normalization, dict):
        if len(inputs) != 1:
            fix = "Pass a dict of (mean, std) by input name."
            raise ValueError(errors.message("One normalisation is for files of one input.", fix, inputs=names))
        normalization = {names[0]: normalization}
    unknown = sorted(set(normalization) - set(names))
    if unknown:
        raise ValueError(errors.unknown("input", unknown[0], names))
    return [_step(tensor, normalization.get(name)) for tensor, name in zip(inputs, names)]


def _step(tensor, given):
    if given is None:
        return None
    num_channels = int(tensor.shape[-1]) if tensor.shape is not None and len(tensor.shape) else 1
    try:
        mean, std = (np.atleast_1d(np.asarray(part, "float64")) for part in given)
        right = mean.shape == std.shape and mean.shape in ((1,), (num_channels,))
        right = right and bool(np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all())
    except (TypeError, ValueError):
        right = False
    if not right:
        expected = f"`normalization` must be (mean, std), each a number or {num_channels} of them, std > 0."
        raise ValueError(errors.message(expected, "(0, 255) divides pixels by 255.", normalization=given))
    return mean.tolist(), std.tolist()


def _set_buffer(model, data):
    buffer = flatbuffer.schema().BufferT()
    buffer.data = np.frombuffer(data, "uint8")
    known = next((item for item in model.metadata or [] if item.name == _ENTRY), None)
    if known is not None:
        model.buffers[known.buffer] = buffer
        return
    entry = flatbuffer.schema().MetadataT()
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


class _Writer:
    """Builds the metadata from the inside out, as flatbuffers want it."""

    def __init__(self):
        import flatbuffers

        self.builder = flatbuffers.Builder(1024)

    def tensor(self, tensor, step=None, labels=False):
        """`TensorMetadata` of one input or output."""
        name = tensor.name.decode(errors="replace")
        shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        slots = {0: self._text(name), 3: self._content(shape)}
        if step is not None:
            options = self._table(2, {0: self._floats(step[0]), 1: self._floats(step[1])})
            slots[4] = self._vector([self._table(2, {0: ("byte", _NORMALIZATION), 1: options})])
        if labels:
            what = self._text("names of the classes, one a line")
            slots[6] = self._vector([self._table(5, {0: self._text(LABELS), 1: what, 2: ("byte", _AXIS_LABELS)})])
        return self._table(7, slots)

    def finish(self, name, description, inputs, outputs):
        """The whole as bytes."""
        graph = self._table(10, {0: self._text(name), 2: self._vector(inputs), 3: self._vector(outputs)})
        slots = {0: self._text(name), 3: self._vector([graph]), 7: self._text(_PARSER_VERSION)}
        if description:
            slots[1] = self._text(description)
        root = self._table(8, slots)
        self.builder.Finish(root[1], _IDENTIFIER)
        return bytes(self.builder.Output())

    def _content(self, shape):
        if len(shape) == 4 and shape[-1] in _COLOURS:
            image = self._table(2, {0: ("byte", _COLOURS[shape[-1]])})
            return self._table(3, {0: ("byte", _IMAGE), 1: image})
        return self._table(3, {0: ("byte", _FEATURES), 1: self._table(0, {})})

    def _text(self, text):
        return "offset", self.builder.CreateString(text)

    def _floats(self, values):
        return "offset", self.builder.CreateNumpyVector(np.asarray(values, "float32"))

    def _vector(self, items):
        self.builder.StartVector(4, len(items), 4)
        for _, offset in reversed(items):
            self.builder.PrependUOffsetTRelative(offset)
        return "offset", self.builder.EndVector()

    def _table(self, num_slots, slots):
        self.builder.StartObject(num_slots)
        for slot, (kind, value) in slots.items():
            if kind == "byte":
                self.builder.PrependUint8Slot(slot, value, 0)
            else:
                self.builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return "offset", self.builder.EndObject()


class _Reader:
    """A table of a flatbuffer, read by slot; a slot that was not written reads as None, or as an empty list."""

    def __init__(self, table):
        self._table = table

    @classmethod
    def root(cls, data):
        """The outermost table of a metadata flatbuffer."""
        from flatbuffers import encode, packer, table

        if data[4:8] != _IDENTIFIER:
            raise ValueError("no metadata")
        return cls(table.Table(bytearray(data), encode.Get(packer.uoffset, data, 0)))

    def text(self, slot):
        """A string."""
        place = self._place(slot)
        return self._table.String(place).decode() if place else None

    def byte(self, slot):
        """A number of one byte; 0 where it was not written."""
        place = self._place(slot)
        return int(self._table.Bytes[place]) if place else 0

    def table(self, slot):
        """Another table."""
        place = self._place(slot)
        return self._at(self._table.Indirect(place)) if place else None

    def tables(self, slot):
        """A list of tables."""
        start, num = self._list(slot)
        return [self._at(self._table.Indirect(start + 4 * i)) for i in range(num)]

    def floats(self, slot):
        """A list of numbers."""
        start, num = self._list(slot)
        return [float(value) for value in np.frombuffer(bytes(self._table.Bytes[start : start + 4 * num]), "<f4")]

    def _list(self, slot):
        offset = self._table.Offset(4 + 2 * slot)
        return (self._table.Vector(offset), self._table.VectorLen(offset)) if offset else (0, 0)

    def _place(self, slot):
        offset = self._table.Offset(4 + 2 * slot)
        return offset + self._table.Pos if offset else 0

    def _at(self, position):
        from flatbuffers import table

        return _Reader(table.Table(self._table.Bytes, position))


def _tensor_figures(tensor, attached):
    """A `TensorMetadata` as plain types."""
    figures = {"name": tensor.text(0), "description": tensor.text(1), "kind": None, "mean": None, "std": None, "labels": None}
    content = tensor.table(3)
    if content is not None:
        figures["kind"] = _KINDS.get(content.byte(0))
    for unit in tensor.tables(4):
        if unit.byte(0) == _NORMALIZATION:
            options = unit.table(1)
            figures["mean"], figures["std"] = options.floats(0), options.floats(1)
    for file in tensor.tables(6):
        if file.byte(2) == _AXIS_LABELS and file.text(0) in attached:
            figures["labels"] = attached[file.text(0)].decode().splitlines()
    return figures
