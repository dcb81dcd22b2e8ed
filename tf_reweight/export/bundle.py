"""What an app developer needs with a `.tflite`: its inputs and outputs in words, labels, a C header, one zip."""

import io
import os
import pathlib
import re
import zipfile

from tf_reweight import errors
from tf_reweight.checks import check_flag, check_text, listed
from tf_reweight.files import as_path, check_is_file, write_whole
from tf_reweight.packing import equivalence
from tf_reweight.strict_json import to_json
from tf_reweight.tflite import constants, metadata, sizes
from tf_reweight.tflite.execution import Runner, read_file
from tf_reweight.tflite.inspection import summarize

# As C text a file takes six times its size, and microcontrollers hold no more than this.
_LARGEST_HEADER = 2**20


def bundle(path, out, labels=None, preprocessing=None, extra=(), normalization=None, header=None, shapes=None):
    """Puts a file and all that goes with it into one `.zip`.

    In it: `model.tflite`, stored uncompressed as an APK stores it, so that it can be mapped into memory, with labels and
    normalisation as LiteRT metadata, and checked to compute what the given file does; `model.json` with the signature (names,
    shapes, types, scale and zero point of each input and output), the labels, how inputs are prepared, and sizes in bytes;
    `labels.txt`, one a line; `model.h`, the same bytes as a C array for microcontrollers; and what is extra.

    Args:
        path: the `.tflite`; it is loaded in LiteRT first.
        out: the `.zip` to write, whole or not at all.
        labels: names of the classes in the order of the outputs, or None; then those that the file has.
        preprocessing: how an input is made of raw data, in words, such as `"grey, 28 x 28 pixels"`; or None.
        extra: paths of further files, a list or tuple, or one alone, such as a run's `report.html`.
        normalization: `(mean, std)`: the input is `(raw - mean) / std`; see `metadata.annotate`.
        header: whether to write the C header; None does for files up to 1 MiB.
        shapes: of inputs whose sizes the file leaves open, for running it: one whole shape, or a dict by input name.

    Returns:
        What `model.json` says, as a dict.

    Raises:
        FileNotFoundError: for a file that does not exist.
        ValueError: for a file LiteRT does not load, or labels or a normalisation that do not fit.
        VerificationError: when the file with metadata would not compute the same.
        OSError: when the zip cannot be written.

    Example:
        >>> bundle("pruned_int8.tflite", "app.zip", labels=data.class_names, normalization=(0, 255))
    """
    if header is not None:
        check_flag("header", header)
    check_text("preprocessing", preprocessing)
    out = _checked_out(out)
    extra = [as_path("extra", item) for item in listed(extra)]
    _check_extra(extra)
    given = read_file(path)
    content = given
    if labels is not None or normalization is not None:
        content = metadata.annotate(given, labels, normalization, pathlib.Path(path).stem, preprocessing or "")
        equivalence.check_same(given, content, shapes=shapes)
    description = describe(content, path, preprocessing, shapes)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.tflite", content, zipfile.ZIP_STORED)
        archive.writestr("model.json", to_json(description, indent=1) + "\n")
        if header if header is not None else len(content) <= _LARGEST_HEADER:
            archive.writestr("model.h", c_header(content, pathlib.Path(path).stem))
        if description["labels"] is not None:
            archive.writestr(metadata.LABELS, "".join(f"{label}\n" for label in description["labels"]))
        for item in extra:
            archive.write(item, item.name)
    write_whole(out, stream.getvalue())
    return description


def describe(content, name, preprocessing=None, shapes=None):
    """Inputs, outputs, labels and sizes of a file as a dict of plain types; see `bundle`.

    Sizes that the file leaves open are -1. Of a file with several signatures, inputs and outputs are those of the first graph.
    """
    constants.parse(content, name)
    runner, summary = Runner(content, shapes=shapes), summarize(content, name)
    said = summary.metadata or {"inputs": [], "outputs": []}
    labels = [item["labels"] for item in said["outputs"] if item["labels"]]
    steps = {
        item["name"]: {"mean": item["mean"], "std": item["std"]} for item in said["inputs"] if item["mean"] and item["std"]
    }  # fmt: skip
    return {
        "signatures": list(summary.signatures),
        "inputs": [_end(name, detail) for name, detail in runner.inputs.items()],
        "outputs": [_end(name, detail) for name, detail in runner.outputs.items()],
        "labels": labels[0] if labels else None,
        "normalization": steps or None,
        "preprocessing": preprocessing,
        **sizes.sizes_of(content),
        "apk_bytes_page_aligned": sizes.apk_size(len(content), 16384),
    }


def _checked_out(out):
    out = as_path("out", out)
    if out.suffix != ".zip" or not out.parent.is_dir() or out.is_dir():
        raise ValueError(errors.message("`out` must end in .zip, in an existing folder.", "Choose another.", out=str(out)))
    if not os.access(out.parent, os.W_OK):
        raise OSError(errors.message("The folder of `out` must be writable.", "Choose another.", out=str(out)))
    return out


def _check_extra(extra):
    names = ["model.tflite", "model.json", "model.h", metadata.LABELS]
    for item in extra:
        check_is_file(item, "A file to bundle", extra=str(item))
        if item.name in names:
            raise ValueError(errors.message("Files in a zip must have different names.", "Rename it.", extra=str(item)))
        names.append(item.name)


def c_header(content, name):
    """The bytes as a C header: `const unsigned char <name>[]`, aligned as TFLite for microcontrollers wants it."""
    symbol = re.sub(r"\W", "_", name)
    symbol = symbol if symbol[:1].isalpha() else f"model_{symbol}"
    rows = [", ".join(f"0x{byte:02x}" for byte in content[start : start + 16]) for start in range(0, len(content), 16)]
    body = ",\n  ".join(rows)
    return (
        f"#ifndef {symbol.upper()}_H_\n#define {symbol.upper()}_H_\n\n"
        "#ifdef __cplusplus\n#define TF_REWEIGHT_ALIGN alignas(16)\n#else\n#define TF_REWEIGHT_ALIGN _Alignas(16)\n#endif\n\n"
        f"static TF_REWEIGHT_ALIGN const unsigned char {symbol}[] = {{\n  {body}\n}};\n"
        f"static const unsigned int {symbol}_len = {len(content)};\n\n#endif\n"
    )


def _end(name, detail):
    scale, zero_point = detail["quantization"]
    # A shape that is known from the start has no signature in some files.
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return {
        "name": name,
        "shape": [int(size) for size in shape],
        "dtype": detail["dtype"].__name__,
        "scale": float(scale) or None,
        "zero_point": int(zero_point) if scale else None,
    }
