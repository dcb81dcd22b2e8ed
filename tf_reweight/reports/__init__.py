"""What a model or a run looks like: tables, curves, charts and the page."""

from tf_reweight.lazy import submodules

__getattr__ = submodules(__name__)
