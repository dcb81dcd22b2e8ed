"""What lets a regularizer carry state: it is a Keras layer as well."""

import keras


class StatefulRegularizer(keras.layers.Layer, keras.regularizers.Regularizer):
    """A regularizer whose state Keras saves, restores and traces, because it is a layer as well.

    A variable inside a plain `Regularizer` is baked into the compiled step on JAX and lost on save; one added to the host
    layer breaks loading, since Dense and Conv save a fixed list of weights.
    """

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True

    def build(self, *args, **kwargs):
        self.built = True

    def compared_norms(self, kernel):
        """Group norms of a kernel as epsilon sees them."""
        return self.norms(kernel)

    def get_build_config(self):
        return None

    @classmethod
    def from_config(cls, config):
        return cls(**config)
