"""Passes stderr on without the lines of TensorFlow and LiteRT that mean nothing to a user. Run as a process of its own."""

import re
import sys

# Their start-up notes, oneDNN's and CUDA's on machines without a GPU, and the converter's echo of its own settings.
NOISE = re.compile(
    rb"[IW]\d{4} [\d:.]+ |E\d{4} .*cuda|WARNING: All log messages before absl::InitializeLog|fully_quantize: |"
    rb"INFO: (?:Created TensorFlow Lite|Initialized TensorFlow Lite)|To enable the following instructions: |"
    rb"\d{4}-\d\d-\d\d [\d:.]+: [IW] "
)


def pass_on(source, target):
    """Copies lines, but for noise, until the source ends; each at once, so that an abort's last words arrive."""
    for line in source:
        if not NOISE.match(line):
            target.write(line)
            target.flush()


if __name__ == "__main__":
    pass_on(sys.stdin.buffer, sys.stdout.buffer)
