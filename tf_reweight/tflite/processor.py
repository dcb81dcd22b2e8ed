"""The processor that times are measured on, by name."""

import pathlib
import platform

_LINUX = pathlib.Path("/proc/cpuinfo")


def processor_name():
    """The name that the machine gives its processor, as `"Intel(R) Xeon(R) ..."`; the architecture where it gives none."""
    if _LINUX.exists():
        lines = _LINUX.read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
