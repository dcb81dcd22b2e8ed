"""`tfmot.sparsity.keras`: magnitude pruning by a schedule, under tfmot's names."""

from tf_reweight.tfmot.callbacks import PruningSummaries, UpdatePruningStep
from tf_reweight.tfmot.missing import instead
from tf_reweight.tfmot.pruning import PruningPolicy, prune_low_magnitude, prune_scope, strip_pruning
from tf_reweight.tfmot.schedules import ConstantSparsity, PolynomialDecay

__all__ = [
    "ConstantSparsity", "PolynomialDecay", "PruningPolicy", "PruningSummaries", "UpdatePruningStep", "prune_low_magnitude",
    "prune_scope", "strip_pruning",
]  # fmt: skip
__getattr__ = instead(
    __name__,
    {
        "PrunableLayer": "tf_reweight.kernels.table.register, which names the kernel of a layer of yours",
        "PruneForLatencyOnXNNPack": "tf_reweight.export.make_arm_eligible, which makes a model fit sparse kernels on ARM",
        "PruningSchedule": "ConstantSparsity or PolynomialDecay",
    },
)
