"""Kernels of layers whose own `call` may compute with other numbers than the stored ones."""


from tf_reweight import errors
from tf_reweight.graph.keras_classes import is_keras_own

# What decides in Keras' layers which numbers are computed with.
_HOOKS = ("call", "__call__", "convolution_op", "kernel")


def overrides_computing(kind, known):
    """Whether a layer class computes in a way of its own, and not as the class `known`, its parent, does."""
    own = kind.__mro__[: kind.__mro__.index(known)]
    return any(hook in vars(parent) for parent in own if not is_keras_own(parent) for hook in _HOOKS)


def warn_of_own_calls(targets):
    """Warns of targets whose class has a `call` of its own: zeros of the kernel may be no zeros of what it computes with."""
    kinds = {target.path: type(target.layer).__name__ for target in targets if target.own_call}
    if not kinds:
        return
    named = ", ".join(f"{path} ({kind})" for path, kind in list(kinds.items())[:5])
    errors.warn(
        f"The class of {named} overrides how Keras' layer computes. If it uses other numbers than the stored kernel, as weight "
        "standardization does, zeros of the kernel are no zeros of its outputs and of the exported file. Compare the "
        "sparsity of the file; tf_reweight.kernels.table.register says of a class that it uses its kernel as it is.",
    )
