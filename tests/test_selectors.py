"""`layers=` means the same in every function, and siblings take their arguments alike."""

import inspect

import keras
import pytest

import tf_reweight as tfr
from tf_reweight import baselines
from tf_reweight.kernels import selection
from tf_reweight.kernels.table import find

L = keras.layers


def selectable():
    """Layers inside layers: a nested model, an LSTM and attention, beside layers whose names begin alike."""
    inner = keras.Sequential([keras.Input((6, 8)), L.Dense(8, name="one"), L.Dense(8, name="two")], name="block")
    inputs = keras.Input((6, 8))
    x = L.Dense(8, name="block_2")(inner(inputs))
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.LSTM(8, name="lstm")(x)
    return keras.Model(inputs, L.Dense(3, name="top")(L.Dense(8, name="last")(x)))


ATTENTION = [f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output")]
LSTM = ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"]
# What the kernels' names begin with once `simplify` has written everything as one graph.
ALL = ("attention", "lstm", "block_one", "block_two", "block_2", "last", "top")
SELECTORS = {
    "a name": ("last", ["last/kernel"]),
    "a path": ("block/two", ["block/two/kernel"]),
    "a kernel": ("lstm/lstm_cell/recurrent_kernel", LSTM[1:]),
    "a glob": ("block*", ["block/one/kernel", "block/two/kernel", "block_2/kernel"]),
    "a nested model's name": ("block", ["block/one/kernel", "block/two/kernel"]),
    "a recurrent layer's name": ("lstm", LSTM),
    "an attention layer's name": ("attention", ATTENTION),
    "a layer": (lambda model: model.get_layer("last"), ["last/kernel"]),
    "a nested model": (lambda model: model.get_layer("block"), ["block/one/kernel", "block/two/kernel"]),
    "a recurrent layer": (lambda model: [model.get_layer("lstm")], LSTM),
    "a type": (L.Dense, ["block/one/kernel", "block/two/kernel", "block_2/kernel", "last/kernel", "top/kernel"]),
    "a type with a cell": (L.LSTM, LSTM),
    "a type with projections": (L.MultiHeadAttention, ATTENTION),
    "a predicate": (lambda model: lambda layer: layer.name == "two", ["block/two/kernel"]),
    "a predicate about kernels": (lambda model: lambda target: target.name.endswith("recurrent_kernel"), LSTM[1:]),
    "kernels themselves": (lambda model: [target for target in find(model)[0] if target.name in LSTM[1:]], LSTM[1:]),
    "some of these": (
        lambda model: ["last", L.LSTM, lambda layer: layer.name == "one"], ["block/one/kernel", *LSTM, "last/kernel"],
    ),
}  # fmt: skip


def selector_of(name, model):
    layers, expected = SELECTORS[name]
    return (layers(model) if inspect.isfunction(layers) else layers), expected


@pytest.mark.parametrize("name", SELECTORS)
def test_one_kind_of_selector_in_every_function(name):
    """The same `layers=` means the same kernels wherever it is given."""
    model = selectable()
    layers, expected = selector_of(name, model)

    def names(targets):
        return sorted(target.name for target in targets)

    selected, _ = selection.select(model, "unstructured", layers)
    assert names(item.target for item in selected) == sorted(expected)
    assert names(item.target for item in tfr.regularize(model, layers=layers).attachments) == sorted(expected)
    tfr.detach(model)
    assert names(tfr.prune(model, "unstructured", sparsity=0.5, layers=layers).kernels) == sorted(expected)
    tfr.release(model)
    assert names(item.target for item in baselines.ADMM("unstructured", 0.5, layers=layers).attach(model)) == sorted(expected)
    tfr.detach(model)
    assert names(tfr.quantization.cluster(model, 4, layers=layers).kernels) == sorted(expected)


@pytest.mark.parametrize("name", [name for name in SELECTORS if "kernel" not in name])
def test_quantize_takes_the_same_selectors(name):
    """Its layers are copies and parts of the user's, called `block_two` for `block/two`."""
    model = selectable()
    layers, expected = selector_of(name, model)
    _, report = tfr.quantize(model, layers=layers, return_report=True)

    def owners(names):
        return {next(begin for begin in ALL if name.replace("/", "_").startswith(begin)) for name in names}

    assert owners(item.name for item in report.kernels) == owners(expected)


@pytest.mark.parametrize("wrong, kind", [("lst", ValueError), ("bloc", ValueError), (3, TypeError), ([], TypeError)])
def test_wrong_selectors_are_refused_by_all(wrong, kind):
    model = selectable()
    foreign = selectable().get_layer("top")
    for function in (tfr.regularize, tfr.quantize, tfr.quantization.cluster):
        with pytest.raises(kind, match="layers"):
            function(model, layers=wrong)
    with pytest.raises(ValueError, match="layers"):
        tfr.regularize(keras.Sequential([keras.Input((2,)), L.Dense(2, name="other")]), layers=foreign)


@pytest.mark.parametrize("foreign", [lambda model: model.get_layer("top"), lambda model: [model.get_layer("block").layers[-1]]])
def test_a_layer_of_another_model_is_said_to_be_one(foreign):
    """The error said that the name is not known, and asked whether the same name was meant."""
    model, other = selectable(), selectable()
    for function in (tfr.regularize, tfr.quantization.cluster):
        with pytest.raises(ValueError, match="`layers` must be of the model itself.* another model. Received: layer="):
            function(model, layers=foreign(other))


def test_a_predicate_that_raises_is_told_with_what_it_was_asked_of():
    words = r"A predicate must say of a Dense whether it is chosen; it raised ZeroDivisionError: .*Received: predicate="
    with pytest.raises(ValueError, match=words):
        tfr.prune(keras.Sequential([keras.Input((4,)), L.Dense(2)]), "unstructured", layers=lambda layer: 1 / 0, sparsity=0.5)


def test_a_layer_or_kernel_of_another_model_is_said_to_be_one_by_all():
    model, other = selectable(), selectable()
    target = next(target for target in find(other)[0] if target.name == "top/kernel")
    words = "must be of the model itself.* another model. Received: layer="
    with pytest.raises(ValueError, match=words):
        tfr.regularize(model, layers=target)
    for how in ({"layers": other.get_layer("top")}, {"weight_bits": {other.get_layer("top"): 4}}):
        with pytest.raises(ValueError, match=words):
            tfr.quantize(model, **how)


def test_a_predicate_that_does_not_say_what_it_takes_is_given_the_layer():
    class Predicate:
        __signature__ = "unknown"
        given = []

        def __call__(self, item):
            self.given.append(item)
            return item.name == "last"

    model = selectable()
    (attachment,) = tfr.regularize(model, layers=Predicate()).attachments
    assert attachment.target.path == "last"
    assert all(isinstance(item, L.Layer) for item in Predicate.given)


def test_siblings_read_alike_and_a_fraction_is_no_structure():
    model = selectable()
    tfr.regularize(model, "filter", 1e-3, layers="last")
    with pytest.raises(TypeError, match=r"prune\(model, sparsity=0.8\)"):
        tfr.prune(model, 0.8)
    with pytest.raises(TypeError):
        tfr.prune(model, "filter", 0.8)
    (kernel,) = tfr.prune(model, "filter", sparsity=0.5, layers="last").kernels
    assert kernel.kept_groups == 4


def test_a_name_with_brackets_is_found():
    """As a glob, the brackets stand for one of the letters between: a layer of that very name goes before."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="block[0]"), keras.layers.Dense(3, name="block0")])
    for selector, names in (("block[0]", {"block[0]/kernel"}), ("block[[]0]", {"block[0]/kernel"})):
        attached = tfr.regularize(net, "unstructured", layers=[selector]).attachments
        assert {item.target.name for item in attached} == names
        tfr.detach(net)
