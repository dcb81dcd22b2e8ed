"""The sections of a YAML file: every key, its type and range, checked before any work starts."""

import typing

import pydantic

from tf_reweight import budget as budgets
from tf_reweight import errors, extras, structures
from tf_reweight.checks import LARGEST, is_sequence
from tf_reweight.coupling.savings import PRICES as SET_PRICES
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.data import value_range as ranges
from tf_reweight.export.precisions import PRECISIONS, TABLE
from tf_reweight.penalties import prices
from tf_reweight.reports.choosing import WISHES
from tf_reweight.quantization.grid import check_bits
from tf_reweight.workflow import methods


# That of seeds, and more than anything that is counted here can be.
_LARGEST = 2**32 - 1


def _allows(annotation, kind):
    """Whether a type hint, or one inside it, is a type or takes any."""
    return annotation in (kind, typing.Any) or any(_allows(part, kind) for part in typing.get_args(annotation))


def _items(value, annotation):
    """What a value holds where its type hint is of a list or a dict of values, else the value; sections check their own."""
    if type(value) is dict and any(typing.get_origin(part) is dict for part in (annotation, *typing.get_args(annotation))):
        return list(value.values())
    return value if type(value) is list else [value]


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value, info):
        """Pydantic takes true for 1, and numbers of any size, at which TensorFlow fails much later."""
        annotation = cls.model_fields[info.field_name].annotation
        for item in _items(value, annotation):
            if type(item) is bool and not _allows(annotation, bool):
                raise ValueError("true and false are no value of it")
            if type(item) is int and abs(item) > _LARGEST and _allows(annotation, int):
                raise ValueError(f"whole numbers are at most {_LARGEST:,}")
            number = number_or_text(item)
            if type(number) is float and LARGEST < abs(number) < float("inf") and _allows(annotation, float):
                raise ValueError(f"numbers are at most {LARGEST:.2g}, the largest that float32 holds")
        return value


# In place of the names of a model and data that a run was given, in its `config.yaml`: nothing loads them by it.
GIVEN = "(given)"


class Data(Section):
    """Where examples come from, see `data.load`, or `FILE.py:FUNCTION`, a function that returns train, validation and test.

    Training images move by up to `shift` pixels.

    `value_range` is what images of whole numbers become: `raw` for values as they are stored (0 to 255), or `[low, high]`.
    With `auto` it is what the model was made for: `raw` where it rescales its input itself, else `[0, 1]`.

    In the `config.yaml` of a run folder the `name` of data that were given is `(given)`: who uses that file gives them again.
    """

    name: str = "digits"
    data_dir: str | None = None
    image_size: int | list[int] | None = None
    validation: float = pydantic.Field(0.1, gt=0, lt=1)
    limit: int | None = pydantic.Field(None, ge=10)
    shift: int = pydantic.Field(0, ge=0)
    value_range: typing.Any = ranges.AUTO

    @pydantic.field_validator("value_range")
    @classmethod
    def _known_range(cls, value):
        value = ranges.check(value)
        return value if isinstance(value, str) else list(value)


class Model(Section):
    """A name from `models.names()`, the path of a built `.keras` file, or `FILE.py:FUNCTION`, which returns a built model.

    `custom` are Python files with the model's own layers, losses and metrics. `(given)` is a model that a run was given, as in
    `data`.
    """

    name: str = "small_cnn"
    custom: list[str] = pydantic.Field(default_factory=list)


class Task(Section):
    """What a model that is not compiled is trained for: loss, metrics and optimizer by Keras' names, as `compile` takes them.

    `monitor` is the metric that decides and heads the report, with or without `val_`; without it the first metric is, else the
    loss. `mode` says which way is better, `max` or `min`, where its name does not.
    """

    loss: str | list[str | None] | dict[str, str | None] | None = None
    loss_weights: list[float] | dict[str, float] | None = None
    metrics: list[typing.Any] | dict[str, typing.Any] | None = None
    weighted_metrics: list[typing.Any] | dict[str, typing.Any] | None = None
    optimizer: str | None = None
    monitor: str | None = None
    mode: typing.Literal["max", "min"] | None = None


class Train(Section):
    """Dense training; `epochs: 0` for a model that is trained already. Every stage has its batches.

    `steps` is the number of batches in an epoch, where the source has no end; `class_weight` weighs the classes of labels
    that are whole numbers.
    """

    epochs: int = pydantic.Field(10, ge=0)
    batch_size: int = pydantic.Field(64, ge=1)
    steps: int | None = pydantic.Field(None, ge=1)
    class_weight: dict[int, float] | None = None
    learning_rate: float = pydantic.Field(1e-3, gt=0)

    @pydantic.field_validator("class_weight", mode="wrap")
    @classmethod
    def _each_class_once(cls, value, read):
        """Pydantic reads 0 and "0" as one class, and keeps the weight that comes last."""
        weights = read(value)
        if weights is not None and len(weights) < len(value):
            raise ValueError("each class has one weight, and a number as text is that number")
        return weights

    @pydantic.field_validator("class_weight")
    @classmethod
    def _no_negative_weights(cls, value):
        if value and (min(value.values()) < 0 or not any(value.values())):
            raise ValueError("weights of classes are at least 0, and one of them above")
        return value


class Rule(Section):
    """One structure on some layers; several rules on one kernel add up.

    `strength` and `price` belong to methods with a penalty, which have defaults for them.
    """

    structure: typing.Any = "unstructured"
    strength: float | None = pydantic.Field(None, ge=0)
    layers: str | list[str] | None = None
    price: typing.Any = None

    @pydantic.field_validator("structure")
    @classmethod
    def _known_structure(cls, value):
        return serialized(structures.get, value)

    @pydantic.field_validator("price")
    @classmethod
    def _known_price(cls, value):
        value = number_or_text(value)
        if value is not None:
            prices.check(value)
        return value


class Coupled(Section):
    """Channels that go together over the whole graph; what the penalty frees, `shrink` removes.

    All keys belong to methods with a penalty, which have defaults for them; `criterion` to `one_shot` as well.
    """

    strength: float | None = pydantic.Field(None, ge=0)
    criterion: typing.Literal[CRITERIA] | None = None
    price: typing.Literal[SET_PRICES] | None = None
    relative: bool | None = None


class Regularize(Section):
    """Training that finds the zeros: `rounds` rounds of `every` epochs; on single kernels (`rules`), or `coupled`.

    `method` is a name of `methods`, or a mapping with the `name` and the method's own settings, such as
    `{name: reweighted, penalty: log_sum, solver: proximal}`. A key that the method has no use for is an error. `tensorboard`
    writes the curves of every stage.
    """

    method: typing.Any = "reweighted"
    rules: list[Rule] = pydantic.Field(default_factory=lambda: [Rule()], min_length=1)
    coupled: Coupled | None = None
    rounds: int = pydantic.Field(5, ge=1)
    every: int = pydantic.Field(5, ge=1)
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    tensorboard: bool = False

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_of_the_method(cls, values):
        return methods.gathered(values) if isinstance(values, dict) else values

    @pydantic.field_validator("method")
    @classmethod
    def _known_method(cls, value):
        value = serialized(methods.get, _numbers(value))
        return {"name": value} if isinstance(value, str) else value

    @property
    def epochs(self):
        return self.rounds * self.every


class Prune(Section):
    """What is removed: what the penalty freed, or a threshold, or a fraction of the weights (coupled: of the groups).

    `macs`, for coupled runs, is the fraction of the multiply-accumulates. `budget` says what may be left instead, such as
    `{macs: 0.5}`, or how much may be lost, `{accuracy_drop: 0.005}`; see `tf_reweight.Budget`. `scope` says where a fraction
    has to hold, `model` where it does not.
    """

    threshold: float | None = pydantic.Field(None, ge=0)
    sparsity: float | None = pydantic.Field(None, ge=0, lt=1)
    macs: float | None = pydantic.Field(None, ge=0, lt=1)
    budget: typing.Any = None
    scope: typing.Literal["model", "layer", "scope"] | None = None

    @pydantic.field_validator("budget")
    @classmethod
    def _known_budget(cls, value):
        try:
            budget = budgets.get(value)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if budget is not None and budget.stored_in not in PRECISIONS:
            raise ValueError(errors.unknown("precision", budget.stored_in, PRECISIONS))
        return None if budget is None else budget.to_dict()

    @pydantic.model_validator(mode="after")
    def _one_amount(self):
        if sum(value is not None for value in (self.threshold, self.sparsity, self.macs, self.budget)) > 1:
            raise ValueError("pass one of `threshold`, `sparsity`, `macs` and `budget`")
        if len(self.budget or {}) > 1 and "accuracy_drop" in self.budget:
            raise ValueError("`budget.accuracy_drop` stands alone: the smallest model within it is looked for")
        return self


class Retrain(Section):
    """Training of what is left, zeros fixed."""

    epochs: int = pydantic.Field(10, ge=0)
    learning_rate: float = pydantic.Field(1e-3, gt=0)


class Shrink(Section):
    """Physical removal of dead channels; `multiple_of` keeps the best of them for the hardware's sake."""

    multiple_of: int = pydantic.Field(1, ge=1)


class Cluster(Section):
    """Kernels move to `clusters` values each, zero among them, which training then moves; before or after `quantize`.

    With `per_channel` each output channel has that many.
    """

    clusters: int = pydantic.Field(16, ge=2, le=256)
    per_channel: bool = False
    epochs: int = pydantic.Field(4, ge=0)
    learning_rate: float = pydantic.Field(2e-4, gt=0)

    @pydantic.model_validator(mode="after")
    def _can_run(self):
        extras.check("sklearn", "The stage `cluster`")  # not after hours of training
        return self


class Quantize(Section):
    """Quantization-aware training of what is left.

    `weight_bits` is a number, or one for each name or glob of layers (`{"head*": 8, "*": 4}`). With `activation_bits: 16` the
    file is an `int16` one, else `int8`.
    """

    epochs: int = pydantic.Field(4, ge=1)
    learning_rate: float = pydantic.Field(2e-4, gt=0)
    weight_bits: typing.Any = 8
    activation_bits: int = pydantic.Field(8, ge=2, le=16)

    @pydantic.field_validator("weight_bits")
    @classmethod
    def _known_bits(cls, value):
        for bits in value.values() if isinstance(value, dict) else [value]:
            check_bits("weight_bits", bits)
        return value

    @property
    def precision(self):
        """Of the file that holds such a model."""
        return "int8" if self.activation_bits == 8 else "int16"

    @pydantic.model_validator(mode="after")
    def _makes_a_file(self):
        bits = set(self.weight_bits.values()) if isinstance(self.weight_bits, dict) else {self.weight_bits}
        if not (self.activation_bits == 8 and max(bits, default=8) <= 8 or self.activation_bits == 16 and bits <= {8}):
            raise ValueError("files hold 8-bit activations with 2- to 8-bit weights, or 16-bit activations with 8-bit weights")
        return self


class Distill(Section):
    """Retraining and quantization-aware training also follow the dense model's outputs, with this weight (0 to 1)."""

    weight: float = pydantic.Field(0.5, gt=0, lt=1)
    temperature: float = pydantic.Field(3.0, gt=0)


class Export(Section):
    """Which files are written, and how they are checked; `verify_arm` runs them on an emulated ARM machine as well.

    With `mixed_bytes` there is one of at most that size in which each kernel has the precision it can bear. `accelerated` is
    that of `export_tflite`. Shipped is the file that is best by `best_by` of those that the run made smaller and that lose at
    most `max_drop` against the most accurate of them, on validation examples; without it, nothing that can be measured. Where
    a budget of bytes, milliseconds or accuracy is met by some files, the others do not count.
    """

    precisions: list[typing.Literal[PRECISIONS]] = pydantic.Field(default_factory=lambda: ["float32", "int8"], min_length=1)
    mixed_bytes: int | None = pydantic.Field(None, ge=1)
    representative: int = pydantic.Field(256, ge=1)
    verify: int = pydantic.Field(256, ge=1)
    tolerance: float | None = pydantic.Field(None, gt=0)
    pack: bool = True
    verify_arm: bool = False
    latency_runs: int = pydantic.Field(50, ge=1)
    accelerated: bool | None = None
    best_by: typing.Literal[WISHES] = "size"
    max_drop: float | None = pydantic.Field(None, ge=0)

    @pydantic.model_validator(mode="after")
    def _files_can_hold_the_tolerance(self):
        # The dense float32 file is written by every run, and each of these of models that were not quantized in training.
        for name in ("float32", *self.precisions):
            least = TABLE[name].least_error
            if self.tolerance is not None and self.tolerance < least:
                expected = f"`tolerance` must be at least {least:g} for {name} files: rounding alone changes outputs by more."
                fix = f"Leave it out, which is {TABLE[name].tolerance:g} for {name}, or choose other precisions."
                raise ValueError(errors.message(expected, fix, tolerance=self.tolerance, precisions=self.precisions))
        return self


def serialized(get, value):
    """What `get` makes of a value, as a config; pydantic names the key of a `ValueError`, and of no other."""
    try:
        return get(value).serialize()
    except TypeError as error:
        raise ValueError(str(error)) from None


def _numbers(value):
    """A method's own mapping with the numbers in it that YAML reads as text; see `number_or_text`."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if is_sequence(value) else number_or_text(value)


def number_or_text(value):
    """YAML 1.1 reads 1e-3 as text; a user means the number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
