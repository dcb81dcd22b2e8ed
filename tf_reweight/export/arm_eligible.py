"""Making a Keras model eligible for sparse kernels on ARM phones without changing what it computes.

XNNPACK wants padding of one on every side of its stem, while 'same' at stride 2 pads even images at the bottom and on the right
alone. Turned by 180 degrees, image and kernels both, such padding lies at the top and on the left, and a row or column that is
added on the other side is never read: so the turned model has the padding that XNNPACK wants, and the same outputs.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.export import samples
from tf_reweight.export.conversion import convert
from tf_reweight.graph.access import node_of
from tf_reweight.graph.checking import check_eager
from tf_reweight.graph.comparing import compare
from tf_reweight.graph.copying import Copied
from tf_reweight.graph.rebuilding import Inlined, rebuild
from tf_reweight.graph.walking import graph_of, walk
from tf_reweight.packing import arm
from tf_reweight.records import Report
from tf_reweight.tflite.comparing import VerificationError

_IMAGE = (1, 2)
_TOLERANCE = 1e-4
# Layers with a kernel over height and width, and the variable that holds it.
_SPATIAL = {
    keras.layers.Conv2D: "kernel", keras.layers.DepthwiseConv2D: "kernel", keras.layers.SeparableConv2D: "depthwise_kernel",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ArmFix(Report):
    """What was changed to make a model eligible, and the proof.

    Attributes:
        changes: one sentence each; empty for a model that was eligible.
        difference: largest difference of the outputs before and after, on random images.
        scale: largest output.
        report: `ArmReport` of the float32 file of the new model.
    """

    changes: tuple[str, ...]
    difference: float
    scale: float
    report: arm.ArmReport

    def to_dict(self):
        """Every figure, as plain types."""
        return {**dataclasses.asdict(self), "report": self.report.to_dict()}

    def __str__(self):
        head = "Eligible for sparse kernels on ARM, with the same outputs "
        head += f"(largest difference {self.difference:.1e}, largest output {self.scale:.1e}):"
        return "\n".join([head, *(f"- {change}" for change in self.changes or ("nothing had to be changed",))])


def make_arm_eligible(model, inputs=None):
    """A model with the same outputs whose floating-point files run on sparse kernels on ARM phones once they are packed.

    Three things are changed, where they have to be: 'same' padding at stride 2 becomes padding of its own, on every side alike;
    where that needs it, the image is turned by 180 degrees first and every kernel with it; and a mean over the image at the end
    gives two axes. What then stands in the way (another pooling, a 3x3 convolution behind the stem) is named, and nothing is
    returned. Prune the new model's 1x1 convolutions to more than two thirds of zeros and export it as float32 or with int8
    weights; a turned model is not packed in float16, since LiteRT turns images outside of its delegate.

    Args:
        model: a built Sequential or functional model with one image of known size as its input; it is unchanged.
        inputs: images `(batch, height, width, 3)` to compare the outputs on; default random ones.

    Returns:
        `(model, ArmFix)`: a functional `keras.Model`, not compiled, and what was done.

    Raises:
        TypeError: for a subclassed model, which has no graph.
        ValueError: when the input is no image of known size, or the model cannot be made eligible; with the reasons.
        VerificationError: when the outputs would differ.

    Example:
        >>> eligible, fix = make_arm_eligible(keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None))
        >>> print(fix)
    """
    check_eager()
    _check_input(graph_of(model))
    fixer = _Fixer(_rebuilt(model))
    made = _rebuilt(fixer.model, fixer.visit, fixer.turned)
    specs = samples.input_specs(made)
    report = arm.arm_eligibility(convert(made, "float32", specs))
    if not report.stem_found or not report.eligible:
        reason = report.reason or "it does not begin with a padded 3x3 convolution of stride 2 over an even image of 3 channels"
        reasons = "; ".join([reason, *fixer.obstacles])
        fix = "Replace that in the model, or ship it as int8, where the rule does not apply."
        raise ValueError(errors.message("The model cannot be made eligible for sparse kernels on ARM.", fix, reasons=reasons))
    result = compare(model, made, [_random_images(specs[0].shape[1:]) if inputs is None else inputs])
    if not result.relative <= _TOLERANCE:
        expected = f"Both models must give the same outputs within {_TOLERANCE:g} of the outputs' scale."
        fix = "The model is refused; report it. The given one is unchanged."
        raise VerificationError(errors.message(expected, fix, difference=result.difference, scale=result.scale))
    return made, ArmFix(tuple(fixer.changes), result.difference, result.scale, report)


def _random_images(shape):
    """Two images for models that take numbers around zero, and two for those that take pixels up to 255."""
    scales = np.asarray((1, 1, 100, 100), "float32").reshape(4, 1, 1, 1)
    return np.random.default_rng(0).normal(size=(4, *shape)).astype("float32") * scales


def _check_input(graph):
    shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(graph.inputs)]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:] or keras.config.image_data_format() != "channels_last":
        fix = "Build it for one image of known size, channels last."
        raise ValueError(errors.message("The model must take one image of known size.", fix, input_shapes=shapes))


def _rebuilt(model, visit=None, turned=False):
    """A copy of a model as one graph, without nested models; `visit(node, layers, args, kwargs)` may change its layers."""
    layers = {}

    def change(path, node, args, kwargs):
        changed = visit(node, layers, args, kwargs) if visit else None
        return _copy(layers, node.operation)(*args, **kwargs) if changed is None else changed

    return rebuild(model, Inlined(change), like=model, prepare=_turned if turned else list)


def _turned(images):
    return [ops.flip(image, axis=_IMAGE) for image in images]


def _copy(layers, operation, **changes):
    """The copy of an operation, one for all its calls."""
    return layers.setdefault(id(operation), Copied(operation, **changes))


class _Fixer:
    """Decides what to change in a model that is one graph.

    Attributes:
        turned: whether image and kernels are turned by 180 degrees.
        changes: what `visit` changed, in words.
        obstacles: what it could not.
    """

    def __init__(self, model):
        self.model, self.changes, self.obstacles = model, [], []
        self.nodes, self.readers, self._flat = [], {}, {}
        walk(model, keras.tree.flatten(graph_of(model).inputs), self._collect)
        self._pads = {id(node): _pads(node) for node in self.nodes if type(node.operation) in _SPATIAL}
        sides = {side: [] for side in ("end", "around")}
        for node in self.nodes:
            for side in self._sides(node):
                sides.setdefault(side, []).append(node.operation.name)
        self.turned = bool(sides["end"]) and not sides["around"]
        if self.turned:
            self.changes.append("the image is turned by 180 degrees first, and so is every kernel over height and width")
        if sides["end"] and sides["around"]:
            both = f"{sides['end'][0]} pads at the bottom and right alone, {sides['around'][0]} on every side"
            self.obstacles.append(f"{both}: no turning of the image suits both")

    def _collect(self, path, node, args, kwargs):
        self.nodes.append(node)
        for tensor in node.input_tensors:
            self.readers.setdefault(id(tensor), []).append(node)
        return keras.tree.pack_sequence_as(node.operation.output, node.outputs) if len(node.outputs) > 1 else node.outputs[0]

    def _sides(self, node):
        """Where a strided layer pads, by axis: `"end"`, `"around"`, or `"other"`; nothing where turning changes nothing."""
        layer = node.operation
        if id(node) not in self._pads or tuple(layer.strides) != (2, 2):
            return []
        sizes = _image(_padding_of(node) or node)
        sides = [_side(*axis) for axis in zip(self._pads[id(node)], layer.kernel_size, sizes)]
        return [side for side in sides if side]

    def visit(self, node, layers, args, kwargs):
        """The changed outputs of a node; None where it is copied as it is."""
        operation = node.operation
        if args and id(args[0]) in self._flat and len(node.input_tensors[0].shape) == 4:
            return self._behind_the_mean(node, layers, args[0])
        if isinstance(operation, keras.layers.ZeroPadding2D) and self._readied(node):
            return args[0]
        if isinstance(operation, (keras.layers.GlobalAveragePooling2D, keras.layers.AveragePooling2D)):
            return self._head(node, args[0])
        if type(operation) not in _SPATIAL:
            return None
        x = args[0]
        padded = self._padded(node)
        changes = {"padding": "valid"} if padded else {}
        first = id(operation) not in layers
        copy = _copy(layers, operation, **changes)
        if padded:
            width = tuple(size // 2 for size in operation.kernel_size)
            x = keras.layers.ZeroPadding2D(width, name=f"{operation.name}_padding")(x)
            self.changes.append(f"{operation.name} is padded by a layer of its own, by {width[0]} on every side")
        outputs = copy(x)
        if first and self.turned and max(operation.kernel_size) > 1:
            kernel = getattr(copy.copy, _SPATIAL[type(operation)])
            kernel.assign(ops.flip(kernel, axis=(0, 1)))
        return outputs

    def _padded(self, node):
        """Whether a strided layer gets padding on every side in place of what it has."""
        sides = self._sides(node)
        if id(node) not in self._pads or tuple(node.operation.strides) != (2, 2) or max(node.operation.kernel_size) == 1:
            return False
        explicit = node.operation.padding == "valid"
        if explicit and (_padding_of(node) is None or "end" not in sides):
            return False
        return "other" not in sides and ("end" not in sides if not self.turned else "around" not in sides)

    def _readied(self, node):
        """Whether the only reader of a padding layer gets its own."""
        readers = self.readers.get(id(node.outputs[0]), [])
        return len(readers) == 1 and self._padded(readers[0])

    def _head(self, node, x):
        """The mean over the image at the end of the convolutions, without axes of size one; None for other pooling."""
        layer = node.operation
        if isinstance(layer, keras.layers.AveragePooling2D):
            whole = tuple(layer.pool_size) == _image(node) and tuple(node.outputs[0].shape[1:3]) == (1, 1)
        else:
            whole = layer.keepdims
        if not whole or id(node.outputs[0]) not in self.readers or self._feeds_an_image(node.outputs[0]):
            return None
        self.changes.append(f"{layer.name} gives two axes in place of four")
        return self._marked(keras.layers.GlobalAveragePooling2D(name=layer.name)(x))

    def _behind_the_mean(self, node, layers, x):
        """What a layer makes of an image of one pixel, when the image comes without its axes of size one.

        The converter would take a reshape right behind the mean back, so that layers work without the axes where they can.
        """
        layer = node.operation
        if isinstance(layer, (keras.layers.Flatten, keras.layers.Reshape)) and len(node.outputs[0].shape) == 2:
            return x
        if isinstance(layer, keras.layers.Conv2D) and set(layer.kernel_size) == {1} and layer.groups == 1:
            self.changes.append(f"{layer.name} is a Dense layer")
            dense = keras.layers.Dense(layer.filters, layer.activation, layer.use_bias, name=layer.name)
            made = dense(x)
            kernel, *bias = layer.get_weights()
            dense.set_weights([kernel.reshape(kernel.shape[2:]), *bias])
            return self._marked(made)
        if isinstance(layer, keras.layers.BatchNormalization):
            return self._marked(_copy(layers, layer, axis=-1)(x))
        if isinstance(layer, (keras.layers.Dropout, keras.layers.Activation, keras.layers.ReLU)):
            return self._marked(_copy(layers, layer)(x))
        return _copy(layers, layer)(keras.layers.Reshape((1, 1, x.shape[-1]))(x))

    def _marked(self, tensor):
        """The tensor, remembered (and kept, since ids are reused) as an image of one pixel without its axes of size one."""
        self._flat[id(tensor)] = tensor
        return tensor

    def _feeds_an_image(self, tensor):
        """Whether anything behind a tensor has height or width, as behind the mean of squeeze-and-excite."""
        waiting, seen = [tensor], set()
        while waiting:
            for node in self.readers.get(id(waiting.pop()), []):
                for made in node.outputs:
                    if len(made.shape) == 4 and tuple(made.shape[1:3]) != (1, 1):
                        return True
                    if id(made) not in seen:
                        seen.add(id(made))
                        waiting.append(made)
        return False


def _image(node):
    return tuple(node.input_tensors[0].shape[1:3])


def _padding_of(node):
    """The node of the ZeroPadding2D that a layer reads; None where it reads something else."""
    maker = node_of(node.input_tensors[0])
    if not isinstance(maker.operation, keras.layers.ZeroPadding2D) or node.operation.padding != "valid":
        return None
    return maker


def _pads(node):
    """`((top, bottom), (left, right))` of zeros around what a layer with a kernel sees."""
    layer = node.operation
    if layer.padding == "same":
        totals = [
            max((math.ceil(size / step) - 1) * step + (kernel - 1) * dilation + 1 - size, 0)
            for size, step, kernel, dilation in zip(_image(node), layer.strides, layer.kernel_size, layer.dilation_rate)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    padding = _padding_of(node)
    return ((0, 0), (0, 0)) if padding is None else tuple(tuple(pair) for pair in padding.operation.padding)


def _side(pads, kernel, size):
    """Where one axis is padded: "" where that reads the same in both directions."""
    width = kernel // 2
    if kernel == 1:
        # A strided 1x1 kernel reads every second pixel, of an even image the first ones.
        return "" if size % 2 else "other"
    if pads == (width, width):
        return "around" if size % 2 == 0 else ""
    return "end" if pads == (width - 1, width) and size % 2 == 0 else "other"
