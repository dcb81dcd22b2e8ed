"""tfmot's names on Keras 3: its tutorials run when the import line says `from tf_reweight import tfmot`.

`tfmot.sparsity.keras`, `tfmot.clustering.keras` and `tfmot.quantization.keras` have the functions of these tutorials under
their old names, built on what this package has. Where they cannot do what was asked for they say so; docs/tfmot.md names the
differences and the calls that replace them.
"""

from tf_reweight.lazy import submodules

__getattr__ = submodules(__name__)
