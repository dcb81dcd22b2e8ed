"""What a layer knows besides its weights, carried over to a copy of it."""

import io
import tempfile

import keras
from keras import ops
from keras.src.random.seed_generator import global_seed_generator
from keras.src.saving import saving_lib

from tf_reweight.graph.access import all_layers, default_generator, seed_generators
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


def saved_state(model):
    """What Keras saves of a model in training, its optimizer included: the bytes of a weights file."""
    content = io.BytesIO()
    store = saving_lib.H5IOStore(content, mode="w")
    try:
        saving_lib._save_state(model, store, None, "", set())
    finally:
        store.close()
    return content.getvalue()


def load_state(model, content):
    """Reads it back."""
    store = saving_lib.H5IOStore(io.BytesIO(content), mode="r")
    try:
        saving_lib._load_state(model, store, None, "", visited_saveables=set())
    finally:
        store.close()


def draws(model):
    """The states of all random generators of a model, and of Keras' own, in order, as lists of numbers."""
    return [ops.convert_to_numpy(generator.state.value).tolist() for generator in _generators(model)]


def set_draws(model, states):
    """Sets them to what `draws` gave."""
    if len(_generators(model)) < len(states):
        global_seed_generator()  # Keras makes its own when something first draws from it
    for generator, state in zip(_generators(model), states):
        generator.state.assign(state)


def seed_draws(model, seed):
    """Lets every random generator of a model begin where a seed says, whatever it drew before."""
    for place, generator in enumerate(_generators(model)):
        generator.state.assign([seed, place << 16])


def _generators(model):
    own = [generator for layer in (model, *all_layers(model)) for generator in seed_generators(layer)]
    unique = list({id(generator): generator for generator in own}.values())
    return unique + [generator for generator in (default_generator(),) if generator is not None]
