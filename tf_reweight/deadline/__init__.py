"""Training towards a budget by a deadline: how hard to press is computed from what still has to go and the time left."""

from tf_reweight.deadline.iterative import IterativePruning
from tf_reweight.deadline.solver import BudgetProximal

__all__ = ["BudgetProximal", "IterativePruning"]
