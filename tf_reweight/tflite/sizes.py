"""What a file costs: as stored, as downloaded, and inside an Android package."""

import gzip

from tf_reweight.checks import check_integer, check_text
from tf_reweight.tflite import flatbuffer

# Of the zip format: the header in front of an entry, and its line in the central directory, each followed by the entry's name.
_LOCAL_HEADER, _CENTRAL_HEADER = 30, 46
_APK_NAME = "assets/model.tflite"


def gzip_size(content):
    """Size in bytes after gzip at its highest level."""
    flatbuffer.check_bytes(content)
    return len(gzip.compress(content, 9, mtime=0))


def apk_size(num_bytes, alignment=4, name=_APK_NAME):
    """Bytes that a file adds to an APK, where `.tflite` files are stored uncompressed so that they can be mapped into memory.

    Counted are the file itself, its two zip headers with its name, and the largest padding that aligning its first byte can
    take. `zipalign` aligns every stored entry to 4 bytes; 16,384 is for those who align to a memory page.

    Args:
        num_bytes: size of the file.
        alignment: of its first byte, in bytes.
        name: of the entry.

    Example:
        >>> apk_size(10_000)
        10117
    """
    check_integer("num_bytes", num_bytes, 0, fix="It counts bytes.")
    check_integer("alignment", alignment, 1, fix="It counts bytes.")
    check_text("name", name, optional=False)
    return num_bytes + _LOCAL_HEADER + _CENTRAL_HEADER + 2 * len(name.encode()) + alignment - 1


def sizes_of(content):
    """Dict with `num_bytes` (as stored), `gzip_bytes` (as downloaded) and `apk_bytes` (see `apk_size`) of a file's bytes."""
    flatbuffer.check_bytes(content)
    return {"num_bytes": len(content), "gzip_bytes": gzip_size(content), "apk_bytes": apk_size(len(content))}
