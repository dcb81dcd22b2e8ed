"""The callbacks to give to `fit`, under the name Keras users look for them."""

from tf_reweight.deadline.iterative import IterativePruning
from tf_reweight.deadline.solver import BudgetProximal
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties.multi_gradient import MultiGradient
from tf_reweight.penalties.proximal import Proximal
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.pruning.keep_zeros import KeepZeros

__all__ = ["BudgetProximal", "CosineDecay", "IterativePruning", "KeepZeros", "MultiGradient", "Proximal", "Reweighting"]
