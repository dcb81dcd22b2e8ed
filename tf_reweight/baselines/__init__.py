"""Other ways to the same zeros, to compare with: ADMM, gradual magnitude pruning, clipping.

They name kernels as `regularize` does and train with plain `fit`, so that an honest comparison changes one line. Two more
need no code of their own: the static (group) lasso is `regularize(model, structure, strength, penalty="lasso")`, and one-shot
magnitude pruning is `prune(model, sparsity=..., structure=...)` on a trained model. Iterative magnitude pruning with
learning-rate rewinding takes budgets and is `callbacks.IterativePruning`. `benchmarks/quality.py` compares all.
"""

from tf_reweight.baselines.admm import ADMM, AdmmPenalty
from tf_reweight.baselines.clipping import Clip, Clipping
from tf_reweight.baselines.gradual import GradualMagnitude
from tf_reweight.baselines.schedules import ConstantSparsity, PolynomialDecay
from tf_reweight.lazy import submodules

__all__ = ["ADMM", "AdmmPenalty", "Clip", "Clipping", "ConstantSparsity", "GradualMagnitude", "PolynomialDecay"]
__getattr__ = submodules(__name__)
