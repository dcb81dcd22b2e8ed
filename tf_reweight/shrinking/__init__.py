"""A physically smaller Keras model without the groups that pruning zeroed, checked against the large one."""

from tf_reweight.graph.comparing import Comparison
from tf_reweight.lazy import submodules
from tf_reweight.shrinking.comparing import compare
from tf_reweight.shrinking.rebuild import ShrinkError
from tf_reweight.shrinking.smaller import ShrinkReport, ShrunkSet, shrink

__all__ = ["Comparison", "ShrinkError", "ShrinkReport", "ShrunkSet", "compare", "shrink"]
__getattr__ = submodules(__name__)
