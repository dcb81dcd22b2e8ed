"""How a layer stores its kernel, and the standard order that structures see."""

import dataclasses
import math

from keras import ops


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the axes of a kernel map to the standard order `(*spatial, in, out)`.

    Args:
        axes: one of `"spatial"`, `"in"`, `"out"` per axis of the kernel; several `"in"` (or `"out"`) axes are merged in order.
        shape: the kernel's shape.
        num_heads: number of attention heads merged into the in or out axis, or None.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    num_heads: int | None = None

    @property
    def permutation(self):
        """Kernel axes in standard order."""
        return tuple(i for role in ("spatial", "in", "out") for i, axis in enumerate(self.axes) if axis == role)

    @property
    def standard_shape(self):
        """Shape of the kernel in standard order; an axis no letter maps to has size 1."""
        sizes = {role: [size for size, axis in zip(self.shape, self.axes) if axis == role] for role in ("spatial", "in", "out")}
        return (*sizes["spatial"], math.prod(sizes["in"]), math.prod(sizes["out"]))

    def to_standard(self, kernel):
        """Kernel -> `(*spatial, in, out)`."""
        if self.permutation != tuple(range(len(self.shape))):
            kernel = ops.transpose(kernel, self.permutation)
        return kernel if self.standard_shape == self.shape else ops.reshape(kernel, self.standard_shape)

    def from_standard(self, standard):
        """`(*spatial, in, out)` -> the kernel's own shape and order."""
        order = self.permutation
        kernel = ops.reshape(standard, tuple(self.shape[i] for i in order))
        if order == tuple(range(len(order))):
            return kernel
        return ops.transpose(kernel, tuple(order.index(i) for i in range(len(order))))

    def get_config(self):
        return {"axes": list(self.axes), "shape": list(self.shape), "num_heads": self.num_heads}

    @classmethod
    def from_config(cls, config):
        return cls(tuple(config["axes"]), tuple(config["shape"]), config.get("num_heads"))

    @classmethod
    def standard(cls, shape):
        """The layout of a kernel that already is `(*spatial, in, out)`."""
        return cls(("spatial",) * (len(shape) - 2) + ("in", "out"), tuple(shape))
