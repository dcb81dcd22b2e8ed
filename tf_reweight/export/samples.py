"""What goes into a file: its inputs, and names that a signature can carry."""

import re

from tf_reweight.data.examples import InputSpec, checked, input_specs, take

__all__ = ["InputSpec", "checked", "identifiers", "input_specs", "take"]


def identifiers(names):
    """Names a signature can carry: letters, digits and underscores, each once."""
    made = []
    for name in names:
        clean = re.sub(r"\W", "_", name)
        clean = clean if clean and not clean[0].isdigit() else f"_{clean}"
        while clean in made:
            clean += "_"
        made.append(clean)
    return made
