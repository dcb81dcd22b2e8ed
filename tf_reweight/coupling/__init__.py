"""Channels tied across a model's graph: which go together, their common penalty, and pruning them as one."""

from tf_reweight.coupling.analysis.sets import CoupledSet, CoupledSets, FrozenChannels, Slice, groups
from tf_reweight.coupling.analysis.table import register
from tf_reweight.coupling.attachment import CoupledPenalties, regularize_coupled
from tf_reweight.coupling.budgeted import CoupledBudgeted
from tf_reweight.coupling.cost import Cost
from tf_reweight.coupling.penalty import Coupled
from tf_reweight.coupling.proximal_solver import CoupledProximal
from tf_reweight.coupling.pruning import GroupPruneReport, PrunedSet, hold_groups, prune_groups
from tf_reweight.lazy import submodules

__all__ = [
    "Cost", "Coupled", "CoupledBudgeted", "CoupledPenalties", "CoupledProximal", "CoupledSet", "CoupledSets", "FrozenChannels",
    "GroupPruneReport", "PrunedSet", "Slice", "groups", "hold_groups", "prune_groups", "register", "regularize_coupled",
]  # fmt: skip
__getattr__ = submodules(__name__)
