"""The one idea: which weights live and die together."""

import abc
import dataclasses

import keras
from keras import ops

from tf_reweight import registry
from tf_reweight.checks import is_sequence
from tf_reweight.records import fields_of


# Single precision ends at 3e38. Beyond this a sum of squares counts as this, so that no penalty is infinite or no number.
_MOST_SQUARED = 1e36


def safe_sqrt(squares):
    """Square root whose gradient at zero is zero instead of infinite, and above 1e36 too; shapes and dtype are kept."""
    squares = ops.minimum(squares, _MOST_SQUARED)
    positive = squares > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, squares, 1.0)), 0.0)


@dataclasses.dataclass(frozen=True)
class Structure(abc.ABC):
    """Views a kernel as `(scopes, groups, members)`.

    A *member* is one weight, a *group* is removed as a whole, a *scope* is a set of groups that compete for one quota.
    Kernels come in Keras' own order `(*spatial, in, out)`; `kernels.table.Layout` brings the kernels of other layers there.
    A structure writes `partition` and its inverse `assemble`; norms, masks and counts follow from these two. All
    per-group quantities (norms, penalty weights, scores, keep flags) have the shape `(scopes, groups)`.

    Structures are immutable dataclasses: their fields are their config, and two structures with equal fields are equal.
    """

    # Whether `select` chooses what is kept (n of m, patterns): then there is no sparsity to ask for.
    decides = False
    # Whether whole outputs go: never those of the model itself, unless the user names the layer.
    removes_outputs = False

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs and reports."""

    @abc.abstractmethod
    def partition(self, kernel):
        """`(*spatial, in, out)` -> `(scopes, groups, members)`; ragged groups are filled up with zeros."""

    @abc.abstractmethod
    def assemble(self, parts, shape):
        """The inverse of `partition`: `(scopes, groups, members)` -> a kernel of `shape`."""

    # What a structure may refine.

    def misfit(self, shape):
        """Why a kernel of `shape` cannot have this structure, as a sentence; None when it can."""
        return None

    def fit(self, layout):
        """The structure with what only the layer knows filled in, from the kernel's `kernels.table.Layout`."""
        return self

    def learn(self, kernel_size, kernels):
        """The structure with what only trained kernels know filled in.

        Args:
            kernel_size: the spatial axes all of `kernels` have.
            kernels: iterable of `(*kernel_size, in, out)`.
        """
        return self

    def squared_norms(self, kernel):
        """Sum of squares of each group, `(scopes, groups)`; override where it is cheaper than `partition`."""
        return ops.sum(ops.square(self.partition(kernel)), axis=-1)

    def select(self, norms):
        """Keep flags `(scopes, groups)` where the structure itself decides them (n of m, patterns), else None."""
        return None

    def penalty_weights(self, penalty, norms, epsilon=None):
        """Weights `(scopes, groups)` of the linearised penalty at `norms`; override where some groups go free."""
        return penalty.weight(norms, epsilon)

    def surrogate(self, weights, norms, power=1):
        """The reweighted penalty, one scalar: `sum(weights * norms ** power)` with `weights` held constant."""
        return ops.sum(weights * (norms if power == 1 else norms**power))

    def penalised(self, weights, kernel, power=1):
        """`surrogate` at the norms of a kernel; override where it can be had in fewer passes, and again where those change."""
        return self.surrogate(weights, self.group_norms(kernel), power)

    def shrinkage(self, norms, thresholds):
        """Factors `(scopes, groups)` in [0, 1] of a proximal step: the soft threshold that belongs to `surrogate`."""
        alive = norms > thresholds
        return ops.where(alive, 1.0 - thresholds / ops.where(alive, norms, 1.0), 0.0)

    def shrunk(self, kernel, thresholds):
        """A kernel after the proximal step of `shrinkage`; override where it can be had in fewer passes."""
        shrunk = self.scaled(kernel, self.shrinkage(self.group_norms(kernel), thresholds))
        # A product with zero may be a negative zero, which is a nonzero byte in a file.
        return ops.where(ops.equal(shrunk, 0), ops.zeros((), dtype=shrunk.dtype), shrunk)

    def scaled(self, kernel, factors):
        """A kernel times one factor for each group `(scopes, groups)`; override where that is broadcast and not repeated."""
        return kernel * self.expand(factors, kernel.shape)

    # What follows.

    def group_norms(self, kernel):
        """Euclidean norm of each group, `(scopes, groups)`, with a zero gradient at all-zero groups."""
        return safe_sqrt(self.squared_norms(kernel))

    def view_shape(self, shape):
        """`(scopes, groups, members)` of a kernel of `shape`, without computing anything."""
        return tuple(self.partition(keras.KerasTensor(tuple(shape), dtype="float32")).shape)

    def group_shape(self, shape):
        """`(scopes, groups)` of a kernel of `shape`."""
        return self.view_shape(shape)[:2]

    def num_members(self, shape):
        """How many weights each group really has, int64 `(scopes, groups)`; ragged groups have fewer."""
        counts = ops.sum(self.partition(ops.ones(tuple(shape), dtype="float32")), axis=-1)
        return ops.convert_to_numpy(counts).round().astype("int64")

    def expand(self, values, shape):
        """Repeats `(scopes, groups)` values over the members: a tensor of kernel `shape`."""
        values = ops.convert_to_tensor(values, dtype="float32")
        return self.assemble(ops.broadcast_to(values[..., None], self.view_shape(shape)), shape)

    def mask(self, keep, shape):
        """0/1 float32 mask of kernel `shape` from keep flags `(scopes, groups)`."""
        return self.expand(ops.cast(keep, "float32"), shape)

    def get_config(self):
        """The fields, JSON-ready; `structures.get({"name": ..., **config})` builds an equal structure."""
        return {name: _jsonable(value) for name, value in fields_of(self).items()}

    def serialize(self):
        """The name where there are no fields, else `{"name": ..., **fields}`: what configs and reports hold."""
        return registry.serialize(self, self.get_config())


def _jsonable(value):
    return [_jsonable(item) for item in value] if is_sequence(value) else value


def num_rows(shape):
    """Rows of the matrix `(spatial * in, out)` a kernel is multiplied as."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows
