"""The coupled penalty: one vector of penalty weights per coupled set, so that what it frees is what can be removed."""

import contextlib
import dataclasses

import keras
from keras import ops

from tf_reweight import errors, penalties
from tf_reweight.checks import check_flag, check_integer
from tf_reweight.coupling.analysis.sets import groups
from tf_reweight.coupling.scores import CRITERIA, check_criterion, counted_slices
from tf_reweight.graph.attributes import models_with
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.walking import is_graph
from tf_reweight.penalties.attachment import attachments
from tf_reweight.penalties.base import as_loss
from tf_reweight.penalties.renewed import Renewed
from tf_reweight.structures.base import safe_sqrt


@keras.saving.register_keras_serializable(package="tf_reweight")
class Coupled(Renewed):
    """Penalises the groups of one coupled set, each with a weight that follows its norm over several variables.

    Adds `strength * sum_g P_g * r_g` to the loss, with `r_g = sqrt(sum of squares of group g over the counted slices)`. It
    sits on one kernel of the set, its anchor, and looks at the others. `regularize_coupled` makes it,
    `callbacks.Reweighting` renews its weights, `prune_groups(model)` removes what it freed.

    Args:
        num_groups: groups in the set.
        strength: the coefficient, >= 0; about the price of one surviving group in units of the loss.
        penalty: name, config or `Penalty`.
        criterion: which slices count; see `scores.counted_slices`.
        price: factor on every penalty weight of this set, > 0.
        relative: whether norms, and epsilon with them, are relative to the set's, see `regularize_coupled`.
        position: which of the sets anchored at the kernel this is, counted from 0.
    """

    spans_several = True
    no_proximal_step = "this penalty is coupled over several kernels; coupling.CoupledProximal solves for it"

    def __init__(
        self, num_groups, strength=1e-3, penalty="log_sum", criterion=CRITERIA[0], price=1.0, relative=False, position=0
    ):
        check_flag("relative", relative, "It is about norms and epsilon.")
        penalty = penalties.get(penalty)
        check_criterion(criterion)
        _check_relative(relative, penalty)
        check_integer("num_groups", num_groups, 1, fix="It counts the groups of a coupled set.")
        super().__init__(strength, penalty, price, (num_groups,))
        self.num_groups, self.position = int(num_groups), position
        self.criterion, self.relative = criterion, bool(relative)  # a configuration holds no bool of NumPy's
        # A plain object, so that Keras does not track the variables in it a second time.
        self.item = self.anchor = None
        # The root mean square of the norms at the last update: pruning asks for it, also after save and load.
        self.scale = self._state("scale", (), 1.0) if relative else None

    @property
    def negligible(self):
        """Norm below which `prune_groups` removes a group of this set."""
        return super().negligible * (float(as_numpy(self.scale)) if self.relative else 1.0)

    def bind(self, layout):
        """Itself: it belongs to a set already."""
        return self

    def load_own_variables(self, store):
        # By now the model stands: Keras loads what it holds after all layers have been built.
        super().load_own_variables(store)
        for model in models_with(self) if self.item is None else []:
            if is_graph(model):
                _connect_all(model)
                break

    @property
    def no_coupled_step(self):
        """Why `CoupledProximal` cannot solve for it, or None."""
        return self.penalty.no_proximal_step

    def frozen(self, target):
        """Layers of its set with `trainable=False`."""
        return self.item.frozen_layers

    def connect(self, model, target):
        """Finds its set again in a model that was loaded."""
        if self.item is None:
            pairs = anchored(groups(model).sets, [target], trainable=False)
            found = [item for item, anchor in pairs if anchor is not None]
            if self.position >= len(found) or found[self.position].num_groups != self.num_groups:
                raise ValueError(
                    errors.message(
                        f"The coupled penalty on {target.name} must find its {self.num_groups} groups in the model again.",
                        "The model changed: `detach` it, and call `regularize_coupled` anew.",
                        groups=[item.num_groups for item in found],
                    )
                )
            self.join(found[self.position], target.variable)

    def join(self, item, anchor):
        """Sets the `CoupledSet` and the variable it sits on."""
        self.item, self.anchor = item, _Reference(anchor)
        return self

    def norms(self, kernel):
        """Group norms `(num_groups,)`, float32; `kernel` is the anchor's value."""
        if self.item is None:
            raise ValueError(
                errors.message(
                    "This coupled penalty must be connected to its model.",
                    "After loading call `tf_reweight.attach(model)`, or fit with callbacks.Reweighting.",
                    item=None,
                )
            )
        squares = [
            part.squared_norms(self.num_groups, kernel if part.variable is self.anchor.variable else None)
            for part in counted_slices(self.item, self.criterion)
        ]
        return safe_sqrt(sum(squares))

    def compared_norms(self, kernel):
        """Norms as epsilon sees them: relative to their root mean square where the penalty is, raised to its power."""
        norms = self.norms(kernel)
        return (norms / _root_mean_square(norms) if self.relative else norms) ** self.penalty.power

    def soft_threshold(self, amounts, spare_largest=False):
        """Takes `amounts` `(num_groups,)` off the group norms, in place, down to exact zeros: the proximal step.

        Args:
            spare_largest: whether the largest group loses half of its norm at most, so that the set cannot become empty.
        """
        norms, amounts = self.norms(self.anchor.variable.value), ops.convert_to_tensor(amounts, "float32")
        if spare_largest:
            amounts = ops.where(norms < ops.max(norms), amounts, ops.minimum(amounts, norms / 2))
        alive = norms > amounts
        factors = ops.where(alive, 1.0 - amounts / ops.where(alive, norms, 1.0), 0.0)
        for part in counted_slices(self.item, self.criterion):
            part.variable.assign(part.variable * ops.cast(part.spread(factors), part.variable.dtype))

    def without_negative_zeros(self):
        """Makes what `soft_threshold` made zero +0.0, in a pass of its own that no training step needs.

        A product with zero may be a negative zero, which is a nonzero byte in a file.
        """
        for variable in self.thresholded:
            zero = ops.zeros((), dtype=variable.dtype)
            variable.assign(ops.where(ops.equal(variable.value, 0), zero, variable.value))

    @property
    def thresholded(self):
        """The variables that `soft_threshold` changes."""
        return [part.variable for part in counted_slices(self.item, self.criterion)]

    def __call__(self, kernel):
        """The penalty of the whole set: a scalar."""
        return as_loss(self.strength * ops.sum(self.penalty_weights * self.norms(kernel) ** self.penalty.power))

    def _weights_at(self, norms, epsilon):
        scale = _root_mean_square(norms) if self.relative else 1.0
        if self.relative:
            self.scale.assign(scale)
        # So that a step takes the same share off all sets: the penalty of norms relative to a scale, times its square.
        return scale ** (2 - self.penalty.power) * self.penalty.weight(norms / scale, epsilon)

    def get_config(self):
        config = {"num_groups": self.num_groups, **super().get_config()}
        return {**config, "criterion": self.criterion, "relative": self.relative, "position": self.position}


@dataclasses.dataclass(frozen=True, eq=False)
class _Reference:
    """Hides a variable from Keras' tracking."""

    variable: keras.Variable


def _connect_all(model):
    """Connects the penalties that came with a loaded model; a model that has changed since is reported when one is used."""
    for item in attachments(model):
        with contextlib.suppress(ValueError):
            item.regularizer.connect(model, item.target)


def _check_relative(relative, penalty):
    if relative and not penalty.reweighted:
        fix = "Use log_sum or arctan, or relative=False."
        raise ValueError(errors.message("`relative` needs a penalty whose weights are renewed.", fix, penalty=penalty.name))


def _root_mean_square(norms):
    # Of a set that is gone nothing is left to compare with.
    largest = ops.maximum(ops.max(norms), 1e-12)
    # Divided by the largest, since squares leave single precision long before norms do.
    return ops.maximum(largest * ops.sqrt(ops.mean(ops.square(norms / largest))), 1e-12)


def coupled_penalties(model):
    """The coupled penalties of a model."""
    return [item.regularizer for item in attachments(model) if item.regularizer.spans_several]


def anchored(sets, found, trainable):
    """Each set with the first of its kernels, among the targets given, that can carry a regularizer, or None."""
    by_variable = {id(target.variable): target for target in found}
    pairs = []
    for item in sets:
        makers = [s for s in item.slices if s.role in ("out", "scale") and id(s.variable) in by_variable]
        anchors = [by_variable[id(s.variable)] for s in makers if s.variable.trainable or not trainable]
        pairs.append((item, anchors[0] if anchors else None))
    return pairs
