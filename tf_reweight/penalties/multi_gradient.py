"""Two objectives, the loss and the penalty, by the stochastic multi-gradient rule: a step that raises neither."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_number
from tf_reweight.graph import one_fit
from tf_reweight.graph.batchnorm import follow_again, follow_closely_for_now
from tf_reweight.graph.distribution import as_numpy, beside, share_of_replica, sum_over_replicas
from tf_reweight.graph.optimizers import innermost, zero_averages
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.penalties.attachment import attach, attachments, check_trainable
from tf_reweight.penalties.base import replaced
from tf_reweight.penalties.projections import kept
from tf_reweight.penalties.proximal import Silent


def loss_weight(loss_gradients, penalty_gradients):
    """Weight of the loss's gradient g1 in the shortest vector between it and the penalty's, g2.

    `clip(<g2 - g1, g2> / |g2 - g1|^2, 0, 1)`, which minimises `|w g1 + (1 - w) g2|` over w in [0, 1] (Désidéri 2012).

    Args:
        loss_gradients: list of tensors.
        penalty_gradients: list of tensors of the same shapes.

    Returns:
        Float32 scalar in [0, 1]; 1 where both are equal.
    """
    pairs = list(zip(loss_gradients, penalty_gradients))
    above = sum(ops.sum((second - first) * second) for first, second in pairs)
    below = sum(ops.sum(ops.square(second - first)) for first, second in pairs)
    return ops.where(below > 0, ops.clip(above / ops.where(below > 0, below, 1.0), 0.0, 1.0), 1.0)


class MultiGradient(keras.callbacks.Callback):
    """Trains for the loss and for the penalties on the model at once, with neither a strength nor a budget.

    The optimizer gets the shortest vector between the gradient of the loss and that of the penalty, see `loss_weight`, in
    place of the gradient of their sum. To first order a step along it raises neither; where it is zero, no step can lower one
    without raising the other. After each epoch groups whose root mean square is at most `clip` become zero, though each kernel
    keeps its best; they may come back until the model is pruned (Reiners, Klamroth and Stiglmayr, arXiv 2008.13590).

    The penalties are scaled together so that their gradient has the norm `scale` when `fit` begins: their strengths count
    against each other only. The rule then presses as hard as the loss is steep, and ends where it ends: unlike with
    `BudgetProximal`, how much goes is not known beforehand. `prune(model, budget=...)` cuts to a budget afterwards. The
    property of not raising either objective is that of the gradient; momentum and adaptive optimizers step another way.

    Other regularizers stay in the loss. During `fit`, `loss` and `val_loss` are without the penalty. It needs the gradients
    inside the training step, which TensorFlow shows. After a `fit` that was interrupted, the next one, `detach(model)` or
    `take_off(model)` ends the rule.

    Args:
        clip: root mean square of a group, >= 0, at or below which it becomes zero.
        scale: norm of the penalty's gradient when `fit` begins, > 0; larger ones press more.

    Attributes:
        history: one dict per epoch of this `fit`: `epoch`, how many are trained by then; `weight`, that of the loss's gradient
            on average over the steps; and `zeros`, the part of the penalised weights that are zero.

    Raises:
        ValueError: for a value out of range; at the start of `fit`, for a model without penalties, one with penalties that span
            several kernels or carry a budget, a penalty without a gradient, a second MultiGradient, or another backend than
            TensorFlow.

    Example:
        >>> tfr.regularize(model, "unstructured", strength=1.0, penalty="lasso")
        >>> model.fit(x, y, epochs=20, callbacks=[tfr.callbacks.MultiGradient()])
        >>> tfr.prune(model, threshold=0.0)
    """

    def __init__(self, clip=1e-3, scale=1.0):
        super().__init__()
        check_number("clip", clip, minimum=0.0, fix="1e-3 is usual.")
        check_number("scale", scale, minimum=0.0, exclusive=True, fix="1 is usual.")
        self.clip, self.scale = float(clip), float(scale)
        self.history = []
        self._pairs, self._optimizer, self._factor, self._sums, self._slow = [], None, 1.0, None, []

    def on_train_begin(self, logs=None):
        _check_backend()
        one_fit.end_earlier(self.model, self)
        self.history = []
        attach(self.model)
        self._pairs = _chosen(self.model)
        norm = float(np.sqrt(sum(float(ops.sum(ops.square(gradient))) for gradient in self._penalty_gradients().values())))
        if not 0 < norm < np.inf:
            fix = "Call regularize(model, ..., strength=1.0) on kernels that are not zero."
            raise ValueError(errors.message("MultiGradient needs penalties with a gradient.", fix, norm=norm))
        self._factor = self.scale / norm
        with beside(self._pairs[0][0].variable):
            # The weights' sum and their number, in this epoch.
            self._sums = keras.Variable(np.zeros(2, "float32"), trainable=False, aggregation="only_first_replica")
        for target, _ in self._pairs:
            target.variable.regularizer = replaced(target.variable.regularizer, Silent)
        self._listen()
        self._slow = follow_closely_for_now(self.model)
        one_fit.begin(self.model, self, self._give_back, with_penalties=True)
        drop_compiled_steps(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self._sums.assign(np.zeros(2, "float32"))

    def on_epoch_end(self, epoch, logs=None):
        if not self._pairs:
            return  # taken off by another callback
        self._clip()
        total, count = as_numpy(self._sums)
        weight = float(total / max(count, 1.0))
        self.history.append({"epoch": epoch + 1, "weight": weight, "zeros": self._zeros()})

    def on_train_end(self, logs=None):
        if not self._pairs:
            return
        # Another callback may have brought back weights of before the last clipping.
        self._clip()
        if self.history:
            # Averages of the weights, which Keras may have put in their place, have other small groups.
            self.history[-1]["zeros"] = self._zeros()
        take_off(self.model)

    def _zeros(self):
        kernels = [as_numpy(variable) for variable in {id(t.variable): t.variable for t, _ in self._pairs}.values()]
        return sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)

    def _listen(self):
        # Inside loss scaling: what overflowed does not come this far, and the rest has its own scale.
        self._optimizer = optimizer = innermost(self.model.optimizer)
        apply = optimizer.apply

        def combining(gradients, trainable_variables=None):
            variables = optimizer.trainable_variables if trainable_variables is None else trainable_variables
            return apply(self._combined(list(gradients), variables), trainable_variables)

        optimizer.apply = combining

    def _give_back(self):
        """Takes off what lasts as long as one `fit`."""
        vars(self._optimizer).pop("apply", None)
        for target, _ in self._pairs:
            # The layer's attribute was never touched, so that a model saved meanwhile is the usual one.
            target.variable.regularizer = kept(target)
        follow_again(self._slow)
        self._pairs, self._slow = [], []
        drop_compiled_steps(self.model)

    def _combined(self, gradients, variables):
        """The gradients to be applied in place of the loss's; None stays where neither objective has one."""
        own = self._penalty_gradients()
        first = [None if gradient is None else ops.convert_to_tensor(gradient) for gradient in gradients]
        second = [own.get(id(variable)) for variable in variables]
        known = [place for place in range(len(first)) if first[place] is not None or second[place] is not None]

        def as_float(gradient, place):
            return ops.zeros(variables[place].shape) if gradient is None else ops.cast(gradient, "float32")

        loss = {place: as_float(first[place], place) for place in known}
        penalty = {place: as_float(second[place], place) * self._factor for place in known}
        # Each replica has a part of the batch, and gradients of that alone; the penalty's are the same in all.
        weight = loss_weight([sum_over_replicas(loss[place]) for place in known], list(penalty.values()))
        self._sums.assign_add(ops.stack([weight, ops.ones_like(weight)]))
        for place in known:
            found = weight * loss[place] + (1.0 - weight) * share_of_replica(penalty[place])
            gradients[place] = ops.cast(found, variables[place].dtype)
        return gradients

    def _penalty_gradients(self):
        """Mapping of `id(variable)` to the gradient of all penalties, strengths included, float32."""
        import tensorflow as tf

        variables = {id(target.variable): target.variable for target, _ in self._pairs}
        # Tensors: of what is mirrored, no copy can be watched inside the scope of its strategy.
        values = {key: tf.convert_to_tensor(variable.value) for key, variable in variables.items()}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for value in values.values():
                tape.watch(value)
            total = sum(penalty(values[id(target.variable)]) for target, penalty in self._pairs)
        found = tape.gradient(total, list(values.values()), unconnected_gradients="zero")
        return {key: ops.cast(gradient, "float32") for key, gradient in zip(variables, found)}

    def _clip(self):
        for target, penalty in self._pairs:
            groups = target.groups(penalty.structure)
            sizes = groups.by("magnitude")
            keep = sizes > self.clip
            keep.flat[int(np.argmax(sizes))] = True
            values, mask = as_numpy(target.variable), target.own_mask(keep, penalty.structure)
            # Not a product: that makes negative zeros, which are nonzero bytes in a file.
            target.variable.assign(np.where(mask, values, np.zeros((), values.dtype)))
        zero_averages(self.model.optimizer, [target.variable for target, _ in self._pairs])


def take_off(model):
    """Ends the rule on a model: the penalties act in the loss again, weights stay. `MultiGradient` does it when `fit` ends.

    Returns:
        Whether it was at work.
    """
    return any([one_fit.end(model, callback) for callback in one_fit.callbacks_at_work(model, MultiGradient)])


def _check_backend():
    if keras.backend.backend() != "tensorflow":
        fix = "Use BudgetProximal or Proximal, or set KERAS_BACKEND=tensorflow before Keras is imported."
        expected = "MultiGradient needs the gradients inside the training step, which TensorFlow shows."
        raise ValueError(errors.message(expected, fix, backend=keras.backend.backend()))


def _chosen(model):
    """`(target, penalty)` pairs of a model; raises for none, and for those that the rule cannot follow."""
    items = attachments(model)
    pairs = [(item.target, item.regularizer) for item in items]
    if not pairs:
        fix = 'Call tf_reweight.regularize(model, ..., penalty="lasso") first.'
        raise ValueError(errors.message("Expected a model with at least one penalty.", fix, model=model.name))
    for target, penalty in pairs:
        if penalty.spans_several or penalty.budget is not None:
            fix = "Put penalties with a strength on single kernels by `regularize`, or use BudgetProximal."
            expected = "MultiGradient needs penalties on single kernels, without a budget."
            raise ValueError(errors.message(expected, fix, kernel=target.name, budget=penalty.budget))
    check_trainable(items)
    return pairs
