"""What `quantize` did, and what stays float and why."""

import dataclasses

from tf_reweight.kernels.table import LeftOut
from tf_reweight.records import Report


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """A layer whose kernel is rounded: bits, and whether each channel has a step of its own."""

    name: str
    kind: str
    bits: int
    per_channel: bool


@dataclasses.dataclass(frozen=True)
class QuantizationReport(Report):
    """What `quantize` did.

    Attributes:
        kernels: one `QuantizedLayer` per layer with a rounded kernel.
        num_ranges: how many ranges of activations there are to learn.
        left_out: every operation that computes in float, with the reason.
        rewritten: mapping of layer path to what became of the layer, for those that were folded or split.
    """

    kernels: tuple[QuantizedLayer, ...]
    num_ranges: int
    left_out: tuple[LeftOut, ...]
    rewritten: dict

    def __str__(self):
        counts = f"{len(self.kernels)} kernels and {self.num_ranges} ranges quantized"
        lines = [f"{counts}; {len(self.left_out)} operations stay float."]
        lines += [f"      {k.name}: {k.bits} bits, {'per channel' if k.per_channel else 'one step'}" for k in self.kernels]
        lines += [f"      {item.name}: float, {item.reason}" for item in self.left_out]
        lines += [f"      {name}: {what}" for name, what in self.rewritten.items()]
        return "\n".join(lines)
