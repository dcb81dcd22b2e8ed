"""What a YAML file may say: every key, its type and range, checked before any work starts."""

import pathlib
import typing

import pydantic
import yaml

from tf_reweight import budget as budgets
from tf_reweight import errors, penalties, structures
from tf_reweight.coupling.savings import PRICES as SET_PRICES
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.data import value_range as ranges
from tf_reweight.export.precisions import PRECISIONS
from tf_reweight.penalties import epsilons, prices
from tf_reweight.quantization.grid import check_bits
from tf_reweight.workflow import methods, own_stages

STEPS = ("train", "regularize", "prune", "retrain", "shrink", "cluster", "quantize")


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=False, validate_default=True)


class Data(_Section):
    """Where examples come from, see `data.load`, or `FILE.py:FUNCTION`, a function that returns train, validation and test.

    Training images move by up to `shift` pixels.

    `value_range` is what images of whole numbers become: `raw` for values as they are stored (0 to 255), or `[low, high]`.
    With `auto` it is what the model was made for: `raw` where it rescales its input itself, else `[0, 1]`.
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


class Model(_Section):
    """A name from `models.names()`, the path of a built `.keras` file, or `FILE.py:FUNCTION`, which returns a built model.

    `custom` are Python files with the model's own layers, losses and metrics.
    """

    name: str = "small_cnn"
    custom: list[str] = pydantic.Field(default_factory=list)


class Task(_Section):
    """What a model that is not compiled is trained for: loss, metrics and optimizer by Keras' names, as `compile` takes them.

    `monitor` is the metric that decides and heads the report, with or without `val_`; without it the first metric is, else the
    loss. `mode` says which way is better, `max` or `min`, where its name does not.
    """

    loss: str | list[str | None] | dict[str, str] | None = None
    loss_weights: list[float] | dict[str, float] | None = None
    metrics: list[typing.Any] | dict[str, typing.Any] | None = None
    weighted_metrics: list[typing.Any] | dict[str, typing.Any] | None = None
    optimizer: str | None = None
    monitor: str | None = None
    mode: typing.Literal["max", "min"] | None = None


class Train(_Section):
    """Dense training; `epochs: 0` for a model that is trained already. Every stage has its batches.

    `steps` is the number of batches in an epoch, where the source has no end; `class_weight` weighs the classes of labels
    that are whole numbers.
    """

    epochs: int = pydantic.Field(10, ge=0)
    batch_size: int = pydantic.Field(64, ge=1)
    steps: int | None = pydantic.Field(None, ge=1)
    class_weight: dict[int, float] | None = None
    learning_rate: float = pydantic.Field(1e-3, gt=0)


class Rule(_Section):
    """One structure on some layers; several rules on one kernel add up."""

    structure: typing.Any = "unstructured"
    strength: float = pydantic.Field(1e-5, ge=0)
    layers: str | list[str] | None = None
    price: typing.Any = 1.0

    @pydantic.field_validator("structure")
    @classmethod
    def _known_structure(cls, value):
        return _serialized(structures.get, value)

    @pydantic.field_validator("price")
    @classmethod
    def _known_price(cls, value):
        value = _number_or_text(value)
        prices.check(value)
        return value


class Coupled(_Section):
    """Channels that go together over the whole graph; what the penalty frees, `shrink` removes."""

    strength: float = pydantic.Field(1e-3, ge=0)
    criterion: typing.Literal[CRITERIA] = CRITERIA[0]
    price: typing.Literal[SET_PRICES] = "equal"
    relative: bool = False


class Regularize(_Section):
    """Training with the penalty: `rounds` rounds of `every` epochs; on single kernels (`rules`), or `coupled`.

    `method` is reweighting or a baseline of `methods`, which takes as many epochs and the structure and layers of one rule.
    `epsilon` is a rule of `epsilons` in place of the penalty's own; `step` belongs to the proximal solver. `growth` multiplies
    the strengths each time the stage comes again.
    """

    method: typing.Any = "reweighted"
    rules: list[Rule] = pydantic.Field(default_factory=lambda: [Rule()], min_length=1)
    coupled: Coupled | None = None
    penalty: typing.Any = "log_sum"
    growth: float = pydantic.Field(1.0, ge=1)
    rounds: int = pydantic.Field(5, ge=1)
    every: int = pydantic.Field(5, ge=1)
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    restart: bool = True
    epsilon: typing.Any = None
    solver: typing.Literal["gradient", "proximal"] = "gradient"
    step: float = pydantic.Field(0.1, gt=0)
    tensorboard: bool = False

    @pydantic.field_validator("method")
    @classmethod
    def _known_method(cls, value):
        return _serialized(methods.get, value)

    @pydantic.field_validator("penalty")
    @classmethod
    def _known_penalty(cls, value):
        return _serialized(penalties.get, value)

    @pydantic.field_validator("epsilon")
    @classmethod
    def _known_epsilon(cls, value):
        return None if value is None else _serialized(epsilons.get, value)

    @pydantic.model_validator(mode="after")
    def _relative_to_what_is_renewed(self):
        if self.coupled is not None and self.coupled.relative and not penalties.get(self.penalty).reweighted:
            raise ValueError("`coupled.relative` needs a penalty whose weights are renewed, such as log_sum")
        return self

    @property
    def epochs(self):
        return self.rounds * self.every

    def grown(self, times):
        """A copy with the strengths of a stage that came `times` times before."""
        copy = self.model_copy(deep=True)
        for penalized in (*copy.rules, *([copy.coupled] if copy.coupled is not None else [])):
            penalized.strength *= self.growth**times
        return copy


class Prune(_Section):
    """What is removed: what the penalty freed, or a threshold, or a fraction of the weights (coupled: of the groups).

    `macs`, for coupled runs, is the fraction of the multiply-accumulates. `budget` says what may be left instead, such as
    `{macs: 0.5}`; see `tf_reweight.Budget`.
    """

    threshold: float | None = pydantic.Field(None, ge=0)
    sparsity: float | None = pydantic.Field(None, ge=0, lt=1)
    macs: float | None = pydantic.Field(None, ge=0, lt=1)
    budget: typing.Any = None
    scope: typing.Literal["model", "layer", "scope"] = "model"

    @pydantic.field_validator("budget")
    @classmethod
    def _known_budget(cls, value):
        try:
            return None if value is None else budgets.get(value).to_dict()
        except TypeError as error:
            raise ValueError(str(error)) from None

    @pydantic.model_validator(mode="after")
    def _one_amount(self):
        if sum(value is not None for value in (self.threshold, self.sparsity, self.macs, self.budget)) > 1:
            raise ValueError("pass one of `threshold`, `sparsity`, `macs` and `budget`")
        return self


class Retrain(_Section):
    """Training of what is left, zeros fixed."""

    epochs: int = pydantic.Field(10, ge=0)
    learning_rate: float = pydantic.Field(1e-3, gt=0)


class Shrink(_Section):
    """Physical removal of dead channels; `multiple_of` keeps the best of them for the hardware's sake."""

    multiple_of: int = pydantic.Field(1, ge=1)


class Cluster(_Section):
    """Kernels move to `clusters` values each, zero among them, which training then moves; before or after `quantize`.

    With `per_channel` each output channel has that many.
    """

    clusters: int = pydantic.Field(16, ge=2, le=256)
    per_channel: bool = False
    epochs: int = pydantic.Field(4, ge=0)
    learning_rate: float = pydantic.Field(2e-4, gt=0)


class Quantize(_Section):
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


class Distill(_Section):
    """Retraining and quantization-aware training also follow the dense model's outputs, with this weight (0 to 1)."""

    weight: float = pydantic.Field(0.5, gt=0, lt=1)
    temperature: float = pydantic.Field(3.0, gt=0)


class Export(_Section):
    """Which files are written, and how they are checked; `verify_arm` runs them on an emulated ARM machine as well.

    With `mixed_bytes` there is one of at most that size in which each kernel has the precision it can bear.
    """

    precisions: list[typing.Literal[PRECISIONS]] = pydantic.Field(default_factory=lambda: ["float32", "int8"], min_length=1)
    mixed_bytes: int | None = pydantic.Field(None, ge=1)
    representative: int = pydantic.Field(256, ge=1)
    verify: int = pydantic.Field(256, ge=1)
    tolerance: float | None = pydantic.Field(None, gt=0)
    pack: bool = True
    verify_arm: bool = False
    latency_runs: int = pydantic.Field(50, ge=1)


# Stages a run has when their section is there.
_OPTIONAL = {"shrink": Shrink, "cluster": Cluster, "quantize": Quantize}


class Config(_Section):
    """A whole run: train, regularize, prune, retrain, then shrink, cluster and quantize if asked for, export, report.

    `stages` names them in another order: `[train, regularize, prune, shrink, retrain]` retrains the small model, which is
    faster; a stage may come again, and then works with the same settings, but for `regularize.growth`. Stages of your own
    (`stages.register`) have sections by their names beside the others; `own` holds them.
    """

    name: str = pydantic.Field("run", pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = pydantic.Field(0, ge=0)
    stages: list[str] | None = None
    data: Data = pydantic.Field(default_factory=Data)
    model: Model = pydantic.Field(default_factory=Model)
    task: Task = pydantic.Field(default_factory=Task)
    train: Train = pydantic.Field(default_factory=Train)
    regularize: Regularize = pydantic.Field(default_factory=Regularize)
    prune: Prune = pydantic.Field(default_factory=Prune)
    retrain: Retrain = pydantic.Field(default_factory=Retrain)
    distill: Distill | None = None
    shrink: Shrink | None = None
    cluster: Cluster | None = None
    quantize: Quantize | None = None
    export: Export = pydantic.Field(default_factory=Export)
    own: dict[str, typing.Any] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _sections_of_own_stages(cls, values):
        return own_stages.gathered(values) if isinstance(values, dict) else values

    @pydantic.field_validator("own")
    @classmethod
    def _known_own_stages(cls, value):
        return own_stages.checked(value)

    @pydantic.field_validator("stages")
    @classmethod
    def _known_stages(cls, value):
        for step in value or ():
            if step not in STEPS and step not in own_stages.OWN:
                raise ValueError(errors.unknown("stage", step, (*STEPS, *own_stages.OWN)))
        return value

    @pydantic.model_validator(mode="after")
    def _stages_follow_each_other(self):
        if self.stages is None:
            return self
        problem = _problem_of(self.steps)
        if problem is None:
            idle = [name for name in _OPTIONAL if getattr(self, name) is not None and name not in self.stages]
            problem = f"the section `{idle[0]}` is not among the stages" if idle else None
        if problem is not None:
            raise ValueError(f"stages must be in an order that works: {problem}")
        for name, section in _OPTIONAL.items():
            if name in self.stages and getattr(self, name) is None:
                setattr(self, name, section())
        return self

    @property
    def steps(self):
        """The stages in order, by the names of their sections."""
        if self.stages is not None:
            return tuple(self.stages)
        return tuple(name for name in STEPS if name not in _OPTIONAL or getattr(self, name) is not None)

    @pydantic.model_validator(mode="after")
    def _amounts_fit_the_penalty(self):
        methods.check(self.regularize, self.prune)
        coupled = self.regularize.coupled is not None
        if self.regularize.growth != 1 and self.steps.count("regularize") < 2:
            raise ValueError("regularize.growth needs `stages` in which `regularize` comes again: the first time nothing grows")
        if self.prune.macs is not None and not coupled:
            raise ValueError("prune.macs needs regularize.coupled: zeros in single kernels save no computing")
        if self.prune.threshold is not None and coupled:
            raise ValueError("prune.threshold is for single kernels; a coupled penalty knows what it freed")
        return self

    def to_yaml(self):
        """The resolved configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _serialized(get, value):
    """What `get` makes of a value, as a config; pydantic names the key of a `ValueError`, and of no other."""
    try:
        return get(value).serialize()
    except TypeError as error:
        raise ValueError(str(error)) from None


def _problem_of(steps):
    """Why stages cannot come in this order, or None."""
    if steps[:1] != ("train",) or steps.count("train") > 1:
        return "`train` comes first, and once (with train.epochs: 0 for a model that is trained)"
    for before, step in zip(steps, steps[1:]):
        if step == "prune" and before != "regularize":
            return "`prune` removes what the `regularize` just before it freed"
        if before == "regularize" and step != "prune":
            return "`regularize` is followed by the `prune` that takes its penalty off"
        if before == "quantize" and step != "cluster":
            return "after `quantize` only `cluster` may come: others would lose its ranges"
        if before == "cluster" and step != "quantize":
            return "after `cluster` only `quantize` may come: others would move its values apart"
    for step in ("cluster", "quantize"):
        if steps.count(step) > 1:
            return f"`{step}` comes once"
    return "`regularize` is followed by a `prune`" if steps[-1] == "regularize" else None


def load(source, overrides=()):
    """A checked `Config` from a YAML file, a mapping or a `Config`.

    Args:
        source: path of a YAML file, mapping, or `Config`.
        overrides: `"section.key=value"` strings as given to `--set`; values are read as YAML.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for unreadable YAML, an unknown key (the nearest valid one is named), a wrong type or range.

    Example:
        >>> load({"regularize": {"rounds": 3}}, ["train.epochs=1"]).train.epochs
        1
    """
    values = read(source)
    origin = "the configuration" if isinstance(source, (dict, Config)) else str(source)
    config = _validated(values, origin)
    if not overrides:
        return config
    # Overrides act on the resolved configuration, so that they reach into defaults the file does not spell out.
    values = config.model_dump(mode="json")
    for override in overrides:
        values = _overridden(values, override)
    return _validated(values, "--set")


def read(source, overrides=()):
    """The values of a YAML file, a mapping or a `Config`, with overrides, as a mapping that is not checked."""
    if isinstance(source, Config):
        values = source.model_dump(mode="json")
    else:
        values = dict(source) if isinstance(source, dict) else _read(pathlib.Path(source))
    for override in overrides:
        values = _overridden(values, override)
    return values


def _validated(values, origin):
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(_explain(error, origin)) from None


def _read(path):
    if not path.is_file():
        shipped = sorted(str(p) for p in pathlib.Path("configs").glob("*.yaml"))
        raise FileNotFoundError(
            errors.message(
                "`config` must be an existing YAML file.", f"In configs/: {', '.join(shipped) or 'none'}.", config=str(path)
            )
        )
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            errors.message("`config` must be readable YAML.", f"The parser says: {error}", config=str(path))
        ) from None
    if not isinstance(values, dict):
        raise ValueError(errors.message("A config file must hold a mapping.", "See configs/quickstart.yaml.", config=values))
    return values


def _overridden(values, override):
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(errors.message("`--set` takes key=value.", "For example --set train.epochs=3.", set=override))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(errors.message("`--set` takes a YAML value.", f"The parser says: {error}", set=override)) from None
    return _with(values, key.split("."), _number_or_text(value))


def _number_or_text(value):
    """YAML 1.1 reads 1e-3 as text; a user means the number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _with(node, path, value):
    """A copy of nested mappings and lists with the value at `path` replaced."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list) and head.isdigit() and int(head) < len(node):
        return [_with(item, rest, value) if i == int(head) else item for i, item in enumerate(node)]
    node = dict(node) if isinstance(node, dict) else {}
    node[head] = _with(node.get(head), rest, value)
    return node


def _explain(error, origin):
    """All problems of a configuration, each in three sentences."""
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path) or "(top level)"
        if problem["type"] == "extra_forbidden":
            lines.append(errors.unknown("key", key, _siblings(problem["loc"])))
        else:
            text = problem["msg"].removeprefix("Value error, ").rstrip(".")
            expected = f"`{key}` in {origin}: {text[:1].lower() + text[1:]}."
            # Checks of ours say themselves what was received.
            received = {path[-1] if path else "config": problem["input"]}
            lines.append(expected if "Received: " in text else errors.message(expected, "Correct the value.", **received))
    return "\n".join(lines)


def _siblings(location):
    """The valid keys beside a wrong one, written as full paths."""
    section, prefix = Config, []
    for part in location[:-1]:
        prefix.append(str(part))
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next(iter(typing.get_args(annotation)), annotation)
    return [".".join([*prefix, name]) for name in section.model_fields]
