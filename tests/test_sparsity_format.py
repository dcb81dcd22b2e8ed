"""The sparse format: what is encoded is decoded, in the fewest bytes."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_nets import STRUCTURES, content_of, converted, mask_of, zeroed

from tf_reweight.packing import equivalence, pack
from tf_reweight.tflite import constants, flatbuffer, sparse_layout
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.inspection import inspect_tflite
from tf_reweight.tflite.latency import benchmark

L = keras.layers


def walked(values, sparsity, shape):
    """An independent decoder: the recursion of the format's definition, one entry at a time."""
    order, blocks = list(sparsity.traversalOrder), [] if sparsity.blockMap is None else list(sparsity.blockMap)
    rank, stored, dense = len(shape), iter(values), np.zeros(shape, values.dtype)
    sizes = {axis: sparsity.dimMetadata[rank + i].denseSize for i, axis in enumerate(blocks)}

    def visit(level, parent, at):
        if level == len(order):
            spot = [at[axis] * sizes.get(axis, 1) for axis in range(rank)]
            for i, axis in enumerate(blocks):
                spot[axis] += at[rank + i]
            dense[tuple(spot)] = next(stored)
            return
        made = sparsity.dimMetadata[level]
        if made.format == flatbuffer.schema().DimensionType.DENSE:
            for i in range(made.denseSize):
                visit(level + 1, parent * made.denseSize + i, {**at, order[level]: i})
        else:
            for i in range(made.arraySegments.values[parent], made.arraySegments.values[parent + 1]):
                visit(level + 1, i, {**at, order[level]: made.arrayIndices.values[i]})

    visit(0, 0, {})
    return dense


@st.composite
def arrays(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(["int8", "float16", "float32"]))
    values = (rng.normal(size=shape) * 50).astype(dtype)
    structure = draw(st.sampled_from(STRUCTURES))
    return np.where(mask_of(shape, structure, draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), rng), values, values.dtype.type(0))


@settings(max_examples=80, deadline=None)
@given(arrays(), st.randoms(use_true_random=False))
def test_decoding_gives_back_what_was_encoded(array, random):
    blocks = tuple((axis, size) for axis, size in ((0, 2), (array.ndim - 1, 4)) if array.shape[axis] % size == 0)
    order = tuple(random.sample(range(array.ndim), array.ndim))
    anything = sparse_layout.Layout(order, random.randrange(array.ndim), blocks[: 1 + (array.ndim > 1)])
    cost, best = sparse_layout.layouts(array)[0]
    for layout in (best, anything):
        values, sparsity = sparse_layout.encode(array, layout)
        for decoded in (sparse_layout.decode(values, sparsity, array.shape), walked(values, sparsity, array.shape)):
            assert decoded.dtype == array.dtype and decoded.tobytes() == array.tobytes()
        taken = values.nbytes + sparse_layout.num_index_bytes(sparsity)
        assert taken == cost if layout == best else taken >= cost or layout.blocks


@settings(max_examples=20, deadline=None)
@given(arrays())
def test_no_order_of_axes_takes_fewer_bytes_than_the_best(array):
    cost, _ = sparse_layout.layouts(array)[0]
    for order in itertools.permutations(range(array.ndim)):
        for level in range(array.ndim):
            values, sparsity = sparse_layout.encode(array, sparse_layout.Layout(order, level))
            assert values.nbytes + sparse_layout.num_index_bytes(sparsity) >= cost


@settings(max_examples=40, deadline=None)
@given(arrays())
def test_what_is_chosen_for_a_download_is_hardly_larger_as_it_lies(array):
    shaped = [array, array.reshape(array.shape[0], 1, *array.shape[1:])][: 1 + (array.ndim < 4)]
    smallest = min(sparse_layout.layouts(given)[0][0] for given in shaped)
    chosen, layout, cost = sparse_layout.download_layout(shaped)
    values, sparsity = sparse_layout.encode(chosen, layout)
    assert sparse_layout.decode(values, sparsity, chosen.shape).tobytes() == array.tobytes()
    assert smallest <= cost == values.nbytes + sparse_layout.num_index_bytes(sparsity) <= 1.04 * smallest


def test_short_lists_are_chosen_where_they_zip_better():
    array = np.random.default_rng(0).integers(1, 100, (512, 256)).astype("int8")
    array[np.random.default_rng(1).random(array.shape) < 0.75] = 0
    wide, narrow = array, array.reshape(512, 1, 2, 128)
    chosen, layout, cost = sparse_layout.download_layout([wide, narrow])
    smallest, best = sparse_layout.layouts(wide)[0]
    assert cost > smallest and sparse_layout.zipped_bytes(chosen, layout) < sparse_layout.zipped_bytes(wide, best)


def test_a_hand_written_example():
    array = np.array([[0, 0, 0], [5, 6, 7], [0, 0, 0], [1, 0, 2]], "int8")
    layout = sparse_layout.Layout((0, 1), 0)
    values, sparsity = sparse_layout.encode(array, layout)
    assert values.tolist() == [5, 6, 7, 1, 0, 2]
    rows, columns = sparsity.dimMetadata
    assert rows.arraySegments.values.tolist() == [0, 2] and rows.arrayIndices.values.tolist() == [1, 3]
    assert columns.denseSize == 3 and sparsity.traversalOrder.tolist() == [0, 1]
    # Six values, two ends and two positions; entry by entry it would be five values, five ends and five positions.
    assert sparse_layout.layouts(array)[0] == (10, layout)


def test_positions_take_as_many_bits_as_they_need():
    for size, width in ((200, 1), (300, 2), (70_000, 4)):
        array = np.zeros(size, "int8")
        array[-1] = 1
        _, sparsity = sparse_layout.encode(array, sparse_layout.Layout((0,), 0))
        assert sparsity.dimMetadata[0].arrayIndices.values.itemsize == width
        assert sparsity.dimMetadata[0].arraySegments.values.itemsize == 1


def test_negative_zeros_are_zeros():
    """Weight times mask is one for each negative weight; kept, they would cost a third of the gain."""
    content = zeroed(converted("conv 3x3", "float32"))
    model = flatbuffer.parse(content)
    for tensor in model.subgraphs[0].tensors:
        if pack._is_kernel(model, tensor):
            values = constants.values(model, tensor)
            negative = np.where(values == 0, np.float32(-0.0), values)
            model.buffers[tensor.buffer].data = negative.view("uint8").reshape(-1)
    negated = flatbuffer.write(model)
    assert negated != content
    packed = pack.pack(negated).content
    assert packed == pack.pack(content).content
    equivalence.check_same(negated, packed)


def test_sparsity_that_does_not_fit_is_refused():
    values, sparsity = sparse_layout.encode(np.eye(4, dtype="int8"), sparse_layout.Layout((0, 1), 1))
    for bad_values, shape in ((values[:-1], (4, 4)), (values, (2, 2)), (values, (4,))):
        with pytest.raises(ValueError, match="do not fit"):
            sparse_layout.decode(bad_values, sparsity, shape)


def _break_order(sparsity):
    sparsity.traversalOrder = np.asarray([0, 0], "int32")


def _break_size(sparsity):
    sparsity.dimMetadata[0].denseSize = 2**30


def _break_ends(sparsity):
    sparsity.dimMetadata[1].arraySegments.values = np.asarray([0, 1, 2, 3, 2**31 - 1], "int32")


def _break_start(sparsity):
    sparsity.dimMetadata[1].arraySegments.values[0] = 1


def _break_direction(sparsity):
    sparsity.dimMetadata[1].arraySegments.values[1:3] = [3, 1]


def _break_positions(sparsity):
    sparsity.dimMetadata[1].arrayIndices.values[0] = 4


def _lose_lists(sparsity):
    sparsity.dimMetadata[1].arraySegments = None


def _lose_a_level(sparsity):
    sparsity.dimMetadata.pop()


def _add_a_block(sparsity):
    sparsity.blockMap = np.asarray([7], "int32")


BREAKS = [_break_order, _break_size, _break_ends, _break_start, _break_direction, _break_positions, _lose_lists,
          _lose_a_level, _add_a_block]  # fmt: skip


@pytest.mark.parametrize("damage", BREAKS)
def test_damaged_sparsity_is_refused_before_anything_of_its_size_is_made(damage):
    array = np.eye(4, dtype="int8")
    values, sparsity = sparse_layout.encode(array, sparse_layout.Layout((0, 1), 1))
    sparse_layout.check(sparsity, array.shape)
    damage(sparsity)
    with pytest.raises(ValueError, match="sparsity parameters"):
        sparse_layout.decode(values, sparsity, array.shape)


@pytest.mark.parametrize("what", ["size", "ends", "positions", "lists", "signature", "graph of the signature"])
def test_litert_never_sees_a_damaged_file(what, tmp_path):
    """It would read and write outside its memory, and the process would die."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 8)), L.Conv2D(16, 3)])
    kernel = np.asarray(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.where(np.random.default_rng(0).random(kernel.shape) < 0.9, 0, kernel))
    file = flatbuffer.read(pack.pack(content_of(model, "float32")).content)
    (sparsity,) = [tensor.sparsity for graph in file.subgraphs for tensor in graph.tensors if tensor.sparsity is not None]
    listed = next(level for level in sparsity.dimMetadata if level.arraySegments is not None)
    if what == "size":
        next(level for level in sparsity.dimMetadata if level is not listed).denseSize = 2**31 - 1
    elif what == "ends":
        listed.arraySegments.values = listed.arraySegments.values + 1
    elif what == "positions":
        listed.arrayIndices.values = np.full_like(listed.arrayIndices.values, 255)
    elif what == "lists":
        listed.arrayIndices = None
    elif what == "signature":
        file.signatureDefs[0].inputs[0].tensorIndex = 1_000
    else:
        file.signatureDefs[0].subgraphIndex = 7
    path = tmp_path / "bad.tflite"
    path.write_bytes(flatbuffer.write(file))
    for call in (Runner, inspect_tflite, lambda path: benchmark([path], num_runs=1, warmup=0)):
        with pytest.raises(ValueError, match="Received: "):
            call(path)


def _mean_over_other_axes(file):
    (operator,) = [op for op in file.subgraphs[0].operators if len(op.inputs) == 2]
    axes = file.subgraphs[0].tensors[operator.inputs[1]]
    file.buffers[axes.buffer].data = np.array([1, 0], "int32").view("uint8")


def _no_text(file):
    file.subgraphs[0].tensors[0].name = b"\xf4\xf4"


def _other_input(file):
    file.signatureDefs[0].inputs[0].tensorIndex = int(file.subgraphs[0].outputs[0])


@pytest.mark.parametrize("damage, words", [
    (_mean_over_other_axes, "Every operation must give as many numbers as the file says"),
    (_no_text, "Names of tensors must be UTF-8"), (_other_input, "must be a whole TFLite flatbuffer"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(damage, words, tmp_path):
    """One flipped bit: the delegate wrote outside of its memory, and messages were those of Python."""
    model = keras.Sequential([keras.Input((4, 4, 8)), L.GlobalAveragePooling2D()])
    file = flatbuffer.read(content_of(model, "float32"))
    damage(file)
    path = tmp_path / "bad.tflite"
    path.write_bytes(flatbuffer.write(file))
    for call in (Runner, lambda path: benchmark([path], num_runs=1, warmup=0)):
        with pytest.raises(ValueError, match=words):
            call(path)


@pytest.mark.parametrize("largest", [255, 256, 257, 65_535, 65_536])
def test_positions_at_the_boundaries_of_their_types(largest):
    """The last position that a byte holds is 255: the ends of lists count one more."""
    array = np.zeros((1, largest + 1), "int8")
    array[0, largest] = 1
    layout = sparse_layout.Layout((0, 1), 1)
    values, sparsity = sparse_layout.encode(array, layout)
    kept = sparsity.dimMetadata[1].arrayIndices.values
    assert kept.dtype == ("uint8" if largest < 256 else "uint16" if largest < 65_536 else "int32") and kept[0] == largest
    np.testing.assert_array_equal(sparse_layout.decode(values, sparsity, array.shape), array)
    (cost,) = [cost for cost, item in sparse_layout.layouts(array) if item == layout]
    ends = sparsity.dimMetadata[1].arraySegments.values
    assert cost == values.nbytes + kept.nbytes + ends.nbytes


@pytest.mark.parametrize("num", [255, 256, 65_535, 65_536])
def test_ends_of_lists_at_the_boundaries_of_their_types(num):
    array = np.ones((1, num), "int8")
    layout = sparse_layout.Layout((0, 1), 1)
    values, sparsity = sparse_layout.encode(array, layout)
    ends = sparsity.dimMetadata[1].arraySegments.values
    assert ends.dtype == ("uint8" if num < 256 else "uint16" if num < 65_536 else "int32") and list(ends) == [0, num]
    np.testing.assert_array_equal(sparse_layout.decode(values, sparsity, array.shape), array)
