"""The sparse format: what is encoded is decoded, in the fewest bytes."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_nets import STRUCTURES, converted, mask_of, zeroed

from tf_reweight.packing import equivalence, pack
from tf_reweight.tflite import constants, flatbuffer, sparse_layout

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
