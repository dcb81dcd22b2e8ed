"""What marks a coupled set for a budget: its groups are pressed by `callbacks.BudgetProximal`, outside of the loss."""

import keras

from tf_reweight import budget as budgets
from tf_reweight.coupling.penalty import Coupled
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.penalties.base import KernelPenalty, as_loss


@keras.saving.register_keras_serializable(package="tf_reweight")
class CoupledBudgeted(Coupled):
    """A coupled set whose groups share in a budget with those of all other sets that carry the same.

    It adds nothing to the loss; `regularize_coupled(model, budget=...)` makes it, `callbacks.BudgetProximal` presses on its
    groups and `prune_groups(model)` removes what became zero.

    Args:
        num_groups: groups in the set.
        budget: a `Budget`, its mapping or text.
        criterion: which slices make up a group's norm; see `scores.counted_slices`.
        position: which of the sets anchored at the kernel this is, counted from 0.

    Attributes:
        saliency: float32 `(num_groups,)`, the moving average of how the loss reacts to each group; see `coupling.gates`.
        batches: how many batches it has seen.
    """

    no_proximal_step = "its strength is computed from a budget; callbacks.BudgetProximal solves for it"
    no_coupled_step = no_proximal_step
    renewable = False

    def __init__(self, num_groups, budget, criterion=CRITERIA[0], position=0):
        super().__init__(num_groups, 0.0, "lasso", criterion, 1.0, False, position)
        self.budget = budgets.get(budget)
        # In the penalty, so that a run that is cut off and goes on has it again.
        self.saliency = self._state("saliency", (num_groups,), 0.0)
        self.batches = self._state("batches", (), 0.0)

    @property
    def negligible(self):
        """Only what is exactly zero is removed."""
        return 0.0

    def update(self, kernel, epsilon=None):
        """Refuses: it has no weights that `Reweighting` could renew."""
        return KernelPenalty.update(self, kernel, epsilon)

    def __call__(self, kernel):
        """Zero: the loss is that of the model alone."""
        return as_loss(0.0)

    def get_config(self):
        config = {"num_groups": self.num_groups, "budget": self.budget.to_dict()}
        return {**config, "criterion": self.criterion, "position": self.position}
