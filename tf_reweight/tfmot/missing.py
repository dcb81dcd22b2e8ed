"""Names of tfmot that this package has no counterpart of under the same name: what to call instead."""


def instead(module, names):
    """A `__getattr__` that says what replaces a name of tfmot which is not here.

    Args:
        module: the module's `__name__`.
        names: mapping of tfmot's names to what to call instead.
    """

    def load(name):
        if name in names:
            raise AttributeError(f"tfmot's {name} is not in tf_reweight. Use {names[name]} instead; see docs/tfmot.md.")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return load
