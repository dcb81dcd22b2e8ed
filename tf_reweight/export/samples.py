"""What goes into a file: its inputs, and names that a signature can carry."""

import keyword
import re

from tf_reweight.data.examples import InputSpec, checked, input_specs, take

__all__ = ["InputSpec", "checked", "identifiers", "input_specs", "take"]


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
