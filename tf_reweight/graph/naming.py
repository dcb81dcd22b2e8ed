"""Names for the layers that a rewritten model has besides the user's own."""

from tf_reweight.graph.walking import graph_of


class Names:
    """Gives names that no operation of a model has, each once.

    Args:
        model: a Sequential or functional model; the names of its own operations are taken from the start.

    Example:
        >>> Names(model)("conv_activation")
        'conv_activation'
    """

    def __init__(self, model):
        self.taken = {operation.name for operation in graph_of(model).operations}

    def __call__(self, name):
        """`name`, with a number behind it where it is taken."""
        unique, number = name, 1
        while unique in self.taken:
            number += 1
            unique = f"{name}_{number}"
        self.taken.add(unique)
        return unique
