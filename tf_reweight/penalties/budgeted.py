"""What marks a kernel for a budget: its groups are pressed by `callbacks.BudgetProximal`, and the loss knows nothing of it."""

import keras
from keras import ops

from tf_reweight import budget as budgets
from tf_reweight import structures
from tf_reweight.kernels.layout import Layout
from tf_reweight.penalties.base import KernelPenalty, as_loss


@keras.saving.register_keras_serializable(package="tf_reweight")
class Budgeted(KernelPenalty):
    """A kernel whose groups share in a budget with those of all other kernels that carry the same.

    It adds nothing to the loss. `callbacks.BudgetProximal` presses on the groups, as hard as the budget needs, and
    `prune(model)` removes what became zero. `regularize(model, structure, budget=...)` makes it.

    Args:
        structure: name, config or `Structure`: what lives and dies together.
        budget: a `Budget`, its mapping or text.
        layout: config of the bound kernel's `Layout`; set by `bind`, not by hand.

    Example:
        >>> regularize(model, "unstructured", budget="sparsity=0.9")
        >>> model.fit(x, y, epochs=20, callbacks=[BudgetProximal()])
        >>> prune(model)
    """

    no_proximal_step = "its strength is computed from a budget; callbacks.BudgetProximal solves for it"

    def __init__(self, structure="unstructured", budget=None, layout=None):
        super().__init__(0.0)
        self.structure, self.budget = structures.get(structure), budgets.get(budget)
        self.layout = None if layout is None else Layout.from_config(layout)

    @property
    def bound(self):
        """Whether it belongs to one kernel."""
        return self.layout is not None

    @property
    def negligible(self):
        """Only what is exactly zero is removed."""
        return 0.0

    def bind(self, layout):
        """A copy for a kernel of this `Layout`."""
        return Budgeted(self.structure.fit(layout), self.budget, layout.get_config())

    def misfit(self, shape):
        """Why a kernel of standard `shape` cannot have the structure, or None."""
        return self.structure.misfit(shape)

    def norms(self, kernel):
        """Group norms `(scopes, groups)`, float32, of the kernel in the layer's own order."""
        kernel = ops.cast(kernel, "float32")
        return self.structure.group_norms(self.layout.to_standard(kernel) if self.bound else kernel)

    def __call__(self, kernel):
        """Zero: the loss is that of the model alone."""
        return as_loss(0.0)

    def get_config(self):
        layout = self.layout.get_config() if self.bound else None
        return {"structure": self.structure.serialize(), "budget": self.budget.to_dict(), "layout": layout}
