"""What a budget of bytes or milliseconds means for one model: measured on files of it that were written and run."""

from tf_reweight.filecost.channels import of_channels
from tf_reweight.filecost.zeros import of_zeros

__all__ = ["of_channels", "of_zeros"]
