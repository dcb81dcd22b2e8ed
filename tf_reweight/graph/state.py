"""What a layer knows besides its weights, carried over to a copy of it."""

import tempfile

import keras

from tf_reweight.graph.access import seed_generators
from tf_reweight.graph.additions import additions_of

# Words that were given are in their configs, those that they learned are not.
_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)


def parts_of(layer):
    """The layer and those inside it, without penalties put on them, in Keras' order: the same for a layer and its copy."""
    additions = {id(part) for addition in additions_of(layer) for part in addition._flatten_layers()}
    return [part for part in layer._flatten_layers() if id(part) not in additions]


def carry_state(copy, layer):
    """Gives a built copy that has its weights what else the layer knows.

    These are the states of random generators, vocabularies that were learned, and what Normalization computes with: it is made
    of its weights once, when they are learned or loaded.
    """
    for new, old in zip(parts_of(copy), parts_of(layer)):
        for generator, source in zip(seed_generators(new), seed_generators(old)):
            generator.state.assign(source.state.value)
        if isinstance(new, _LOOKUPS) and new.get_vocabulary() != old.get_vocabulary():
            _carry_vocabulary(new, old)
        if isinstance(new, keras.layers.Normalization) and new.built:
            new.finalize_state()


def _carry_vocabulary(copy, layer):
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        copy.load_assets(folder)
