"""What a run leaves in the caller's hands."""

import functools
import pathlib

from tf_reweight.reports.choosing import shipped_of
from tf_reweight.reports.metrics import head_of, text_of, value_of


class Result(dict):
    """The report of a run, a dict with every figure of `report.json`, and what the run made.

    Args:
        report: the figures.
        load: function without arguments that loads the last model.

    Attributes:
        report: the figures, as a plain dict.
        files: paths of the `.tflite` files, the dense float32 one first.
        best_file: path of the file to ship: of those that the run made smaller and that lose nothing measurable, the smallest,
            or what `export.best_by` and `export.max_drop` of the configuration ask for. With a budget of bytes, zipped bytes,
            milliseconds or accuracy it is one that meets the budget, where there is any.
        model: the Keras model after the last stage, not compiled.
    """

    def __init__(self, report, load):
        super().__init__(report)
        self._load = load

    @property
    def report(self):
        return dict(self)

    @property
    def files(self):
        return [pathlib.Path(file["path"]) for file in self["files"]]

    @property
    def best_file(self):
        return next(path for path in self.files if path.name == self["summary"]["shipped"])

    @functools.cached_property
    def model(self):
        return self._load()

    def __repr__(self):
        shipped, metric = shipped_of(self), head_of(self)
        figure = text_of(metric, value_of(shipped, "test", metric))
        return f"Result({str(self.best_file)!r}, {metric['name']}={figure}, {shipped['num_bytes']:,} bytes)"
