"""What goes into a file: its inputs, and names that a signature can carry."""

import keyword
import re

from tf_reweight.data.examples import InputSpec, checked, input_specs, take
from tf_reweight.tflite.ends import End

__all__ = ["InputSpec", "checked", "ends", "identifiers", "input_specs", "take"]


def ends(specs):
    """The inputs of a model, as `tflite.ends` takes them."""
    return [End(name, spec.shape, spec.dtype) for name, spec in zip(identifiers([spec.name for spec in specs]), specs)]


def identifiers(names):
    """Names a signature can carry: ASCII letters, digits and underscores, a letter first, no word of Python's, each once."""
    made = []
    for name in names:
        clean = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not clean[:1].isalpha() or keyword.iskeyword(clean) or clean == "self":
            clean = f"tensor_{clean.lstrip('_')}"
        # TensorFlow does not tell large letters from small ones.
        while clean.lower() in [other.lower() for other in made]:
            clean += "_"
        made.append(clean)
    return made
