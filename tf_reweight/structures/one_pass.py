"""Sums over a kernel whose gradient is computed in one pass: nothing is kept of the sum, and nothing is tiled."""

from keras import ops


def sum_of_squares(kernel, axes):
    """Sum of squares over some axes, in the kernel's dtype.

    What a penalty costs in a training step is the arrays of a kernel's size that it reads and writes. For the gradient of a sum
    of squares, automatic differentiation writes three: the incoming gradient tiled, twice the kernel, and their product. Here
    it is the product alone, the same to the last bit.

    Args:
        kernel: array or variable.
        axes: tuple of the axes that are summed over, none or more.
    """

    @ops.custom_gradient
    def summed(kernel):
        # JAX and TensorFlow give what comes in alone, torch after the arguments and by name.
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return kernel * (2.0 * (ops.expand_dims(upstream, axes) if axes else upstream))

        return ops.sum(ops.square(kernel), axis=axes) if axes else ops.square(kernel), gradient

    # A cast to the type it has makes a tensor of a variable, which TensorFlow's custom gradients do not take eagerly.
    return summed(ops.cast(kernel, kernel.dtype))
