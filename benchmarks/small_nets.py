"""Small nets of the kinds keras.applications does not have, for `zoo.py --small`."""

import keras
from keras import ops

from tf_reweight.data import models

L = keras.layers


class Positions(L.Layer):
    """Adds a learned vector to each position: a layer of one's own, which the analysis does not know."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def vision_transformer():
    """Patches of a 32-pixel image, four pre-norm blocks."""
    x = keras.Input((32, 32, 3))
    h = L.Reshape((64, 64))(L.Conv2D(64, 4, strides=4, name="patches")(x))
    h = Positions(name="positions")(h)
    for number in range(4):
        n = L.LayerNormalization()(h)
        h = L.Add()([h, L.MultiHeadAttention(4, 16, name=f"heads_{number}")(n, n)])
        n = L.LayerNormalization()(h)
        n = L.Dense(256, activation="gelu", name=f"mlp_in_{number}")(n)
        h = L.Add()([h, L.Dense(64, name=f"mlp_out_{number}")(n)])
    return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling1D()(L.LayerNormalization()(h))))


def grouped_query_encoder():
    """Token ids, four blocks whose query heads share key and value heads, a gated MLP."""
    x = keras.Input((24,), dtype="int32")
    h = L.Embedding(250, 64, name="embedding")(x)
    for number in range(4):
        n = L.RMSNormalization()(h)
        h = h + L.GroupQueryAttention(16, 8, 4, name=f"heads_{number}")(n, n)
        n = L.RMSNormalization()(h)
        gated = L.Dense(160, activation="silu", name=f"gate_{number}")(n) * L.Dense(160, name=f"up_{number}")(n)
        h = h + L.Dense(64, name=f"down_{number}")(gated)
    return keras.Model(x, L.Dense(8)(L.GlobalAveragePooling1D()(h)))


def two_headed_detector():
    """One residual backbone; boxes and classes per cell, and a tag for the whole image."""
    x = keras.Input((48, 48, 3), name="image")
    h = _conv(x, 24, 2)
    for filters in (24, 48, 96):
        short = h if h.shape[-1] == filters else L.Conv2D(filters, 1, strides=2, name=f"short_{filters}")(h)
        inner = _conv(h, filters, 1 if h.shape[-1] == filters else 2)
        h = L.ReLU()(L.Add()([short, L.BatchNormalization()(L.Conv2D(filters, 3, padding="same")(inner))]))
    boxes = L.Conv2D(4, 1, name="boxes")(_conv(h, 48))
    kinds = L.Conv2D(6, 1, name="kinds")(_conv(_conv(h, 64), 48))
    tag = L.Dense(5, name="tag")(L.Dense(32, activation="relu")(L.GlobalAveragePooling2D()(h)))
    return keras.Model({"image": x}, {"boxes": boxes, "kinds": kinds, "tag": tag})


def u_net():
    """Three levels; each skip is concatenated with what comes up."""
    x = h = keras.Input((32, 32, 3))
    skips = []
    for filters in (16, 32, 64):
        h = _conv(_conv(h, filters), filters)
        skips.append(h)
        h = L.MaxPooling2D()(h)
    h = _conv(_conv(h, 128), 128)
    for skip in reversed(skips):
        filters = skip.shape[-1]
        h = L.Concatenate()([skip, L.Conv2DTranspose(filters, 2, strides=2)(h)])
        h = _conv(_conv(h, filters), filters)
    return keras.Model(x, L.Conv2D(3, 1, name="mask")(h))


def ds_cnn():
    """The package's own depthwise-separable net."""
    return models.build("ds_cnn")


def lstm_classifier():
    """Two unrolled layers, the first in both directions."""
    x = keras.Input((20, 16))
    h = L.Bidirectional(L.LSTM(32, return_sequences=True, unroll=True))(x)
    return keras.Model(x, L.Dense(6)(L.LSTM(48, unroll=True)(h)))


def gru_classifier():
    """Token ids into two unrolled layers."""
    x = keras.Input((20,), dtype="int32")
    h = L.GRU(48, return_sequences=True, unroll=True)(L.Embedding(200, 32)(x))
    return keras.Model(x, L.Dense(6)(L.Dense(40, activation="relu")(L.GRU(48, unroll=True)(h))))


def shuffled():
    """Grouped convolutions with a channel shuffle between them, and a tensor that is split."""
    x = keras.Input((24, 24, 3))
    h = _conv(x, 48)
    for _ in range(2):
        a, b = ops.split(h, 2, axis=-1)
        b = L.Conv2D(24, 3, groups=12, padding="same")(_conv(b, 24))
        h = L.ReLU()(L.BatchNormalization()(L.Concatenate()([a, b])))
        h = L.Reshape((24, 24, 48))(L.Permute((1, 2, 4, 3))(L.Reshape((24, 24, 2, 24))(h)))
    return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling2D()(_conv(_conv(h, 64, 2), 64))))


def _conv(x, filters, strides=1):
    return L.ReLU()(L.BatchNormalization()(L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)))


NETS = (
    vision_transformer, grouped_query_encoder, two_headed_detector, u_net, ds_cnn, lstm_classifier, gru_classifier, shuffled,
)  # fmt: skip
