"""Layers whose low-rank adaptation (LoRA) is added to their kernels once and for all."""

from tf_reweight import errors
from tf_reweight.graph.access import all_layers, has_lora
from tf_reweight.graph.copying import Copied, assign_like
from tf_reweight.graph.state import carry_state

# Where the layers with LoRA keep what the product is added to; reading it gives the sum.
_KERNELS = ("kernel", "embeddings")


class MergedLora(Copied):
    """The same layer without LoRA, whose kernel is the one that the given layer computes with.

    Args:
        layer: a Dense, EinsumDense, convolution or Embedding with `lora_enabled`.
    """

    def __init__(self, layer):
        super().__init__(layer, lora_rank=None)

    def fill(self):
        """Gives the copy, which is built now, the sum of the kernel and the product, and the other weights."""
        name = next(name for name in _KERNELS if hasattr(self.operation, name))
        kernel = getattr(self.copy, name)
        assign_like(kernel, kernel, getattr(self.operation, name))
        if getattr(self.operation, "bias", None) is not None:
            assign_like(self.copy.bias, self.operation.bias, self.operation.bias.value)
        carry_state(self.copy, self.operation)


def check_merged(model):
    """Raises where a layer has LoRA weights: Keras merges them into the kernel as it saves a model: its weights change."""
    found = [layer.name for layer in all_layers(model) if has_lora(layer)]
    if found:
        fix = "Merge them into the kernels: `tfr.strip(model)`, and compile what it returns."
        raise ValueError(errors.message("No layer may have LoRA weights.", fix, layers=found[:5]))
