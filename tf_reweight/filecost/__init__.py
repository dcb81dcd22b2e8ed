"""What a budget of bytes or milliseconds means for one model: measured on files of it that were written and run."""

from tf_reweight.filecost.channels import of_channels
from tf_reweight.filecost.files import check_can_measure
from tf_reweight.filecost.zeros import of_zeros, of_zeros_again, tightened

__all__ = ["check_can_measure", "of_channels", "of_zeros", "of_zeros_again", "tightened"]
