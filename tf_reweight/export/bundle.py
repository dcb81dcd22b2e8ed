"""What an app developer needs with a `.tflite`: its inputs and outputs in words, labels, a C header, one zip."""

import json
import pathlib
import re
import zipfile

from tf_reweight import errors
from tf_reweight.export.execution import Runner, read_file
from tf_reweight.export.inspection import summarize
from tf_reweight.export.tflite import write_whole


def bundle(path, out, labels=None, preprocessing=None, extra=()):
    """Puts a file and all that goes with it into one `.zip`.

    In it: `model.tflite`, stored uncompressed as an APK stores it, so that it can be mapped into memory; `model.json` with the
    signature (names, shapes, types, scale and zero point of each input and output), the labels, how inputs are prepared, and
    sizes in bytes; `labels.txt`, one a line; `model.h`, the same bytes as a C array for microcontrollers; and what is extra.

    Args:
        path: the `.tflite`; it is loaded in LiteRT first.
        out: the `.zip` to write, whole or not at all.
        labels: names of the classes in the order of the outputs, or None.
        preprocessing: how an input is made of raw data, in words, such as `"grey, divided by 255"`; or None.
        extra: paths of further files, such as a run's `report.html`.

    Returns:
        What `model.json` says, as a dict.

    Raises:
        FileNotFoundError: for a file that does not exist.
        ValueError: for a file LiteRT does not load, or labels that do not fit the outputs.
        OSError: when the zip cannot be written.

    Example:
        >>> bundle("pruned_int8.tflite", "app.zip", labels=data.class_names, preprocessing="grey, divided by 255")
    """
    out = pathlib.Path(out).expanduser()
    if out.suffix != ".zip" or not out.parent.is_dir():
        raise ValueError(errors.message("`out` must end in .zip, in an existing folder.", "Choose another.", out=str(out)))
    extra = [pathlib.Path(item) for item in extra]
    for item in extra:
        if not item.is_file():
            raise FileNotFoundError(errors.message("Files to bundle must exist.", "Check the path.", extra=str(item)))
    content = read_file(path)
    description = describe(content, path, labels, preprocessing)
    temporary = out.with_name(f".{out.name}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.tflite", content, zipfile.ZIP_STORED)
            archive.writestr("model.json", json.dumps(description, indent=1) + "\n")
            archive.writestr("model.h", c_header(content, pathlib.Path(path).stem))
            if labels is not None:
                archive.writestr("labels.txt", "".join(f"{label}\n" for label in labels))
            for item in extra:
                archive.write(item, item.name)
        write_whole(out, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return description


def describe(content, name, labels=None, preprocessing=None):
    """Inputs, outputs and sizes of a file as a dict of plain types; see `bundle`."""
    runner, summary = Runner(content), summarize(content, name)
    outputs = [_end(name, detail) for name, detail in runner.outputs.items()]
    if labels is not None and (len(outputs) != 1 or outputs[0]["shape"][-1] != len(labels)):
        shapes = [output["shape"] for output in outputs]
        expected = "There must be one label per output class."
        raise ValueError(errors.message(expected, "Pass them in the order of the outputs.", labels=len(labels), outputs=shapes))
    return {
        "signature": summary.signatures[0] if summary.signatures else None,
        "inputs": [_end(name, detail) for name, detail in runner.inputs.items()],
        "outputs": outputs,
        "labels": None if labels is None else list(labels),
        "preprocessing": preprocessing,
        "num_bytes": len(content),
        "gzip_bytes": summary.gzip_bytes,
        "apk_bytes": len(content),  # Android stores .tflite files uncompressed, or they cannot be mapped
    }


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
    return {
        "name": name,
        "shape": [int(size) for size in detail["shape"]],
        "dtype": detail["dtype"].__name__,
        "scale": float(scale) or None,
        "zero_point": int(zero_point) if scale else None,
    }
