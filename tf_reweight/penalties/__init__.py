"""What presses on a kernel: penalties by name through `get`, and the regularizers that carry them."""

from tf_reweight.lazy import submodules
from tf_reweight.penalties.functions import Arctan, Lasso, LogSquared, LogSum, Penalty, PenaltyLike, get, names, register

__all__ = ["Arctan", "Lasso", "LogSquared", "LogSum", "Penalty", "PenaltyLike", "get", "names", "register"]
__getattr__ = submodules(__name__)
