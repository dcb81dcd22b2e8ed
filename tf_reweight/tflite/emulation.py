"""An ARM machine on any Linux machine: LiteRT's aarch64 wheel in a small Debian tree, run by qemu-user.

Some files are right everywhere but on ARM phones (see `arm`); here they are caught without a phone. Two commands set it up, see
docs/arm.md. Emulated time says nothing about speed.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

from tf_reweight import errors
from tf_reweight.tflite import apart, litert

VARIABLE = "TF_REWEIGHT_ARM_ROOT"
_EMULATOR = "qemu-aarch64"
_PYTHON = "usr/bin/python3"
_PACKAGES = "opt/litert"
# A phone's, with half-precision and dot product instructions. Of the vector extensions (SVE) that "max" adds, int8 kernels
# come out wrong, packed or not.
_PROCESSOR = "cortex-a76"


class Emulator:
    """Runs files as an ARM phone would.

    Args:
        root: the folder of the Debian tree; default what the environment variable `TF_REWEIGHT_ARM_ROOT` names.

    Raises:
        FileNotFoundError: when the emulator, the tree or LiteRT in it is missing.

    Example:
        >>> Emulator().run(pathlib.Path("model.tflite").read_bytes(), [images])["with"]
    """

    def __init__(self, root=None):
        reason = missing(root)
        if reason:
            raise FileNotFoundError(
                errors.message(
                    f"Checking on ARM needs an emulator; {reason}.",
                    "Set it up with the two commands in docs/arm.md, or leave out verify_arm.",
                    **{VARIABLE: str(root or os.environ.get(VARIABLE))},
                )
            )
        self.root = _root(root)

    def run(self, content, inputs):
        """Raw outputs of a file on the emulated machine, with and without the default delegate.

        Args:
            content: the bytes.
            inputs: as for `litert.run`.

        Returns:
            Mapping of the names in `litert.RUNS` to outputs as of `litert.run`.

        Raises:
            RuntimeError: when LiteRT refuses the file there, or dies.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "model.tflite").write_bytes(content)
            litert.save_arrays(folder / "inputs.npz", inputs)
            # This machine's own variables name libraries of another architecture.
            clean = {"PYTHONPATH": str(self.root / _PACKAGES), "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}
            done = subprocess.run(
                [_EMULATOR, "-cpu", _PROCESSOR, "-L", self.root, self.root / _PYTHON, "-B", "-s", litert.__file__, folder],
                env=clean, capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(apart.complaint(done, "the emulated process"))
            return {name: litert.load_arrays(folder / f"{name}.npz") for name in litert.RUNS}


def missing(root=None):
    """What an `Emulator` lacks, in words; "" where everything is there."""
    if root is None and not os.environ.get(VARIABLE):
        return f"the environment variable {VARIABLE} does not name its folder"
    if shutil.which(_EMULATOR) is None:
        return f"{_EMULATOR} is not installed"
    for part in (_PYTHON, f"{_PACKAGES}/ai_edge_litert", f"{_PACKAGES}/numpy"):
        if not (_root(root) / part).exists():
            return f"{part} is missing in its folder"
    return ""


def _root(root):
    return pathlib.Path(root or os.environ[VARIABLE]).expanduser().absolute()
