"""Tiny networks, one for each way in which channels are tied together."""

import keras
import numpy as np
from keras import ops

L = keras.layers


def plain():
    return keras.Sequential([
        keras.Input((8, 8, 3)), L.Conv2D(8, 3, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU(),
        L.MaxPooling2D(), L.Conv2D(6, 3, activation="relu"), L.Flatten(), L.Dense(10, activation="tanh"), L.Dense(4),
    ])  # fmt: skip


def one_dimensional():
    return keras.Sequential([
        keras.Input((16, 2)), L.Conv1D(8, 3, padding="causal", activation="elu"), L.AveragePooling1D(2), L.DepthwiseConv1D(3),
        L.SeparableConv1D(6, 3, activation="relu"), L.UpSampling1D(2), L.ZeroPadding1D(1), L.Cropping1D(1),
        L.GlobalMaxPooling1D(), L.Dense(3),
    ])  # fmt: skip


def residual():
    x = keras.Input((8, 8, 3))
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="stem")(x)))
    r = L.BatchNormalization()(L.Conv2D(6, 3, padding="same", activation="relu", name="inner")(h))
    h = L.Add()([h, L.Conv2D(8, 1, name="back")(r)])
    h = h + L.Conv2D(8, 3, padding="same", name="more")(h)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(h)))


def squeeze_excite():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(16, 1, activation="swish", name="expand")(x)
    h = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", name="depthwise")(h))
    s = L.Reshape((1, 1, 16))(L.GlobalAveragePooling2D()(h))
    s = L.Conv2D(16, 1, activation="hard_sigmoid", name="excite")(L.Conv2D(4, 1, activation="relu", name="squeeze")(s))
    h = L.Conv2D(6, 1, name="project")(L.Multiply()([h, s]))
    return keras.Model(x, L.Dense(3)(L.Flatten()(h)))


def dense_block():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(6, 3, padding="same", name="first")(x)
    for i in range(2):
        new = L.Conv2D(4, 3, padding="same", name=f"grow_{i}")(L.ReLU()(L.BatchNormalization()(h)))
        h = L.Concatenate()([h, new])
    return keras.Model(x, L.Dense(3)(L.GlobalMaxPooling2D()(h)))


def unet():
    x = keras.Input((8, 8, 3))
    a = L.Conv2D(6, 3, padding="same", activation="relu", name="down")(x)
    b = L.Conv2D(8, 3, padding="same", activation="relu", name="bottom")(L.MaxPooling2D()(a))
    up = L.Conv2DTranspose(6, 2, strides=2, name="up")(b)
    other = L.UpSampling2D(2)(b)
    h = L.Concatenate()([a, up, other])
    h = L.PReLU(shared_axes=(1, 2))(L.Conv2D(4, 3, padding="same", name="merge")(h))
    return keras.Model(x, L.Conv2D(2, 1, name="mask")(h))


def grouped():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(12, 1, activation="relu", name="before")(x)
    h = L.BatchNormalization()(L.Conv2D(24, 3, groups=6, padding="same", name="grouped")(h))
    h = L.GroupNormalization(groups=4)(L.Conv2D(16, 1, name="after")(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(h)))


def multiplier():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(6, 1, name="before")(x)
    h = L.DepthwiseConv2D(3, depth_multiplier=3, activation="relu", name="depthwise")(h)
    h = L.SeparableConv2D(8, 3, depth_multiplier=2, name="separable")(h)
    return keras.Model(x, L.Dense(3)(L.Flatten()(h)))


def operators():
    """keras.ops and Python operators instead of layers."""
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(12, 3, padding="same", name="conv")(x) * 2.0
    a, b = ops.split(h, 2, axis=-1)
    h = ops.concatenate([ops.relu(a) * ops.sigmoid(b), b], axis=-1)
    h = L.Permute((3, 1, 2))(h)
    h = ops.transpose(h, (0, 2, 3, 1))
    h = ops.reshape(h, (-1, 64, 12))[:, 1:]
    h = ops.expand_dims(ops.mean(h, axis=1), 1)
    return keras.Model(x, L.Dense(3)(ops.squeeze(h, 1)))


def thin():
    """Kernels of one row, axes of size one that come and go, a threshold, a pooled tensor spread over the rows."""
    x = keras.Input((6, 8, 3))
    h = L.Conv2D(8, (1, 3), padding="same", name="row")(x)
    h = L.Conv2D(7, (3, 1), padding="same", name="tall")(L.ReLU(threshold=0.2)(h))
    h = L.Add()([h, L.GlobalAveragePooling2D(keepdims=True)(h)])
    h = ops.squeeze(ops.expand_dims(h, -1), -1)
    h = h + ops.max(L.Conv2D(7, (1, 3), padding="same", name="strip")(h), axis=2, keepdims=True)
    flat = L.Reshape((-1, 7), name="flat")
    a, b = (flat(L.Conv2D(7, 1, name=name)(h)) for name in ("left", "right"))
    h = ops.mean(L.Concatenate(axis=1)([a, b]), axis=1)
    return keras.Model(x, L.Dense(3)(h))


def masked():
    """Attention with a mask of its own and a causal one; an RNN with sigmoids."""
    x, seen = keras.Input((5, 8), name="x"), keras.Input((5, 5), name="seen")
    h = x + L.MultiHeadAttention(2, 4, name="given")(x, x, attention_mask=seen)
    h = h + L.MultiHeadAttention(4, 3, name="causal")(h, h, use_causal_mask=True)
    h = L.SimpleRNN(6, activation="sigmoid", unroll=True, name="simple")(L.Dense(9, activation="relu", name="hidden")(h))
    return keras.Model([x, seen], L.Dense(3)(h))


def nested_shared():
    inner_in = keras.Input((8, 8, 6))
    inner = keras.Model(inner_in, L.ReLU()(L.Conv2D(6, 3, padding="same", name="inside")(inner_in)), name="block")
    tail = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(5, 3, name="tail_conv"), L.GlobalAveragePooling2D()], name="tail")
    x, y = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    stem = L.Conv2D(6, 1, name="stem")
    a, b = inner(stem(x)), inner(stem(y))
    return keras.Model([x, y], L.Dense(3)(L.Concatenate()([tail(inner(a)), tail(b)])))


def two_headed():
    x = keras.Input((8, 8, 3), name="image")
    h = L.Conv2D(8, 3, padding="same", activation="relu", name="backbone")(x)
    box = L.Conv2D(4, 1, name="box")(L.Conv2D(6, 3, activation="relu", name="box_conv")(h))
    kind = L.Dense(5, name="kind")(L.GlobalAveragePooling2D()(L.Conv2D(7, 3, name="kind_conv")(h)))
    return keras.Model({"image": x}, {"box": box, "kind": kind})


def attention():
    x = keras.Input((6, 12))
    h = x + L.MultiHeadAttention(4, 5, name="heads")(x, x)
    h = L.LayerNormalization()(h)
    mlp = L.Dense(12, name="mlp_out")(L.Dense(20, activation="gelu", name="mlp_in")(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(h + mlp)))


def grouped_query():
    x = keras.Input((6,), dtype="int32")
    h = L.Embedding(20, 16, name="embedding")(x)
    h = L.Dropout(0.1)(L.Dense(16, name="project")(h))
    h = h + L.GroupQueryAttention(4, 8, 4, name="heads")(h, h)
    h = h + L.EinsumDense("abc,cd->abd", output_shape=(None, 16), bias_axes="d", name="back")(
        L.EinsumDense("abc,cd->abd", output_shape=(None, 24), bias_axes="d", activation="relu", name="inner")(h)
    )
    return keras.Model(x, L.Dense(3)(L.GlobalMaxPooling1D()(h)))


def lstm(steps=3):
    """Three steps, here and in `gru`: each is written out, and converters take as long again for each."""
    return keras.Sequential([
        keras.Input((steps, 4)), L.TimeDistributed(L.Dense(6, activation="relu"), name="each"),
        L.LSTM(8, return_sequences=True, unroll=True, name="first"),
        L.Bidirectional(L.LSTM(5, unroll=True), name="both"), L.Dense(3),
    ])  # fmt: skip


def gru(steps=3):
    x = keras.Input((steps,), dtype="int32")
    h = L.Embedding(11, 8, mask_zero=True, name="embedding")(x)
    h, state = L.GRU(6, return_sequences=True, return_state=True, unroll=True, name="encoder")(h)
    h = L.GRU(6, unroll=True, name="decoder")(h, initial_state=state)
    h = L.RepeatVector(steps)(h)
    return keras.Model(x, L.Dense(4)(L.SimpleRNN(5, unroll=True, name="simple")(h)))


NETS = [
    plain, one_dimensional, residual, squeeze_excite, dense_block, unet, grouped, multiplier, operators, nested_shared,
    two_headed, attention, grouped_query, lstm, gru, thin, masked,
]  # fmt: skip


def randomize(model, seed=0):
    """Random weights everywhere, statistics included, so that nothing hides behind zeros and ones."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        else:
            fan = max(1, int(np.prod(variable.shape[:-1])))
            variable.assign(rng.normal(size=variable.shape) * (0.3 if len(variable.shape) == 1 else fan**-0.5))
    return model
