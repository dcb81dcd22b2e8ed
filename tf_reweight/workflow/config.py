"""A whole configuration: which sections it has, how they go together, and how it is read."""

import pathlib
import re
import typing

import pydantic
import yaml

from tf_reweight import budget as budgets
from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.files import as_path
from tf_reweight.workflow import methods, own_stages, strategies, strict_yaml, trainers
from tf_reweight.workflow.sections import (
    Cluster, Data, Distill, Export, Model, Prune, Quantize, Regularize, Retrain, Section, Shrink, Task, Train, number_or_text,
    serialized,
)  # fmt: skip

# What YAML reads as one text, and its writer meant as a key and a value.
_OF_MODELS = (".keras", ".h5")
_UNSPACED = re.compile(r"[A-Za-z_]\w*:\S.*", re.DOTALL)
LONGEST_NAME = 200  # of a run, in characters: its folder and files have that name and more
STEPS = ("train", "regularize", "prune", "retrain", "shrink", "cluster", "quantize")


# Stages a run has when their section is there.
OPTIONAL = {"shrink": Shrink, "cluster": Cluster, "quantize": Quantize}


class Config(Section):
    """A whole run: train, regularize, prune, retrain, then shrink, cluster and quantize if asked for, export, report.

    `stages` names them in another order: `[train, regularize, prune, shrink, retrain]` retrains the small model, which is
    faster; a stage may come again, and then works with the same settings, but for the method's `growth`. Stages of your own
    (`stages.register`) have sections by their names beside the others; `own` holds them. `trainer` names how they train, where
    a trainer of your own (`trainers.register`) does. `distribute: mirrored` trains with a copy of the model on each device;
    without it a run stays on the devices, or under the strategy, of the model it was given.
    """

    name: str = pydantic.Field("run", pattern=r"^\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    stages: list[str] | None = None
    data: Data = pydantic.Field(default_factory=Data)
    model: Model = pydantic.Field(default_factory=Model)
    task: Task = pydantic.Field(default_factory=Task)
    train: Train = pydantic.Field(default_factory=Train)
    regularize: Regularize = pydantic.Field(default_factory=Regularize)
    prune: Prune = pydantic.Field(default_factory=Prune)
    retrain: Retrain = pydantic.Field(default_factory=Retrain)
    trainer: typing.Any = "plain"
    distribute: typing.Any = None
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

    @pydantic.field_validator("trainer")
    @classmethod
    def _known_trainer(cls, value):
        return serialized(trainers.get, value)

    @pydantic.field_validator("distribute")
    @classmethod
    def _known_strategy(cls, value):
        return None if value is None else serialized(strategies.get, value)

    @pydantic.model_validator(mode="after")
    def _one_trainer(self):
        if self.distill is not None and self.trainer != "plain":
            raise ValueError("`distill` and `trainer` both say how the stages train: leave one of them out")
        return self

    @pydantic.model_validator(mode="after")
    def _stages_follow_each_other(self):
        if self.stages is None:
            return self
        problem = _problem_of(self.steps)
        if problem is None:
            idle = [name for name in OPTIONAL if getattr(self, name) is not None and name not in self.stages]
            problem = f"the section `{idle[0]}` is not among the stages" if idle else None
        if problem is not None:
            expected = f"stages must be in an order that works: {problem}."
            raise ValueError(errors.message(expected, "Put them in order, or leave `stages` out.", stages=list(self.steps)))
        for name, section in OPTIONAL.items():
            if name in self.stages and getattr(self, name) is None:
                setattr(self, name, section())
        return self

    @property
    def steps(self):
        """The stages in order, by the names of their sections."""
        if self.stages is not None:
            return tuple(self.stages)
        return tuple(name for name in STEPS if name not in OPTIONAL or getattr(self, name) is not None)

    def epochs_of(self, step):
        """Epochs in which a stage trains each time it comes: none where the method prunes the dense model as it is."""
        if step == "regularize" and not methods.get(self.regularize.method).trains:
            return 0
        return getattr(self, step).epochs

    @property
    def epochs(self):
        """Dict from each step that trains to its epochs, of all the times that it comes."""
        still = ("prune", "shrink", *own_stages.OWN)
        return {step: self.epochs_of(step) * self.steps.count(step) for step in self.steps if step not in still}

    @pydantic.model_validator(mode="after")
    def _distillation_has_a_stage(self):
        if self.distill is not None and not self.epochs.get("retrain") and self.quantize is None:
            raise ValueError("`distill` needs epochs of `retrain`, or `quantize`: no other stage follows the dense model")
        return self

    @pydantic.model_validator(mode="after")
    def _rules_or_channels(self):
        default = Regularize.model_fields["rules"].get_default(call_default_factory=True)
        said = [rule.model_dump() for rule in self.regularize.rules]
        if self.regularize.coupled is not None and said != [rule.model_dump() for rule in default]:
            expected = "`regularize.rules` are for single kernels, and `coupled` for channels that go together: one counts."
            fix = "Leave the rules out (in an override: regularize.rules=[{}]), or set regularize.coupled to null."
            raise ValueError(errors.message(expected, fix, rules=said))
        return self

    @pydantic.model_validator(mode="after")
    def _amounts_fit_the_penalty(self):
        methods.check(self.regularize, self.prune)
        self._budget_of_the_file_that_is_shipped()
        coupled = self.regularize.coupled is not None
        if methods.get(self.regularize.method).growth != 1 and self.steps.count("regularize") < 2:
            raise ValueError(
                "regularize.method.growth needs `stages` in which `regularize` comes again: the first time nothing grows"
            )
        if self.prune.macs is not None and not coupled:
            raise ValueError("prune.macs needs regularize.coupled: zeros in single kernels save no computing")
        if self.prune.threshold is not None and coupled:
            raise ValueError("prune.threshold is for single kernels; a coupled penalty knows what it freed")
        amounts = [self.prune.sparsity, *([self.prune.macs, self.prune.budget] if coupled else [])]
        if self.prune.scope not in (None, "model") and all(amount is None for amount in amounts):
            raise ValueError("prune.scope says where a prune.sparsity has to hold; pass that too, or leave the scope out")
        return self

    def _budget_of_the_file_that_is_shipped(self):
        """Bytes and milliseconds are those of the last file, where the budget names no precision."""
        budget = budgets.get(self.prune.budget)
        if budget is not None and budget.of_files and budget.precision is None:
            quantized = self.quantize is not None
            precision = self.quantize.precision if quantized else self.export.precisions[-1]
            self.prune.budget = {**self.prune.budget, "precision": precision}

    def to_yaml(self):
        """The resolved configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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
    if not _texts(overrides):
        return config
    # Overrides act on the resolved configuration, so that they reach into defaults the file does not spell out.
    values = config.model_dump(mode="json")
    for override in _texts(overrides):
        path, value = methods.override(*_parsed(override))
        values = _with(values, path, value)
    return _validated(values, "--set")


def read(source, overrides=()):
    """The values of a YAML file, a mapping or a `Config`, with overrides, as a mapping that is not checked."""
    if isinstance(source, Config):
        values = source.model_dump(mode="json")
    else:
        values = dict(source) if isinstance(source, dict) else _read(as_path("config", source))
    for override in _texts(overrides):
        values = _with(values, *_parsed(override))
    return values


def said(source, overrides=()):
    """What `read` gives, without the defaults of a `Config`, which holds all of them: nobody said those."""
    return read(source.model_dump(exclude_unset=True) if isinstance(source, Config) else source, overrides)


def _texts(overrides):
    """The overrides; raises for what is no list of texts."""
    if not is_sequence(overrides) or not all(isinstance(item, str) for item in overrides):
        fix = 'For example ["train.epochs=3"].'
        raise TypeError(errors.message('`overrides` must be a list of "section.key=value" texts.', fix, overrides=overrides))
    return overrides


def _validated(values, origin):
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(_explain(error, origin)) from None


def _read(path):
    if path.suffix in _OF_MODELS:
        fix = "Load it with keras.saving.load_model and pass the model, or name it with --model."
        expected = f"`config` must be a YAML file, and {path.suffix} files are models."
        raise ValueError(errors.message(expected, fix, config=str(path)))
    if not path.is_file():
        shipped = sorted(str(p) for p in pathlib.Path("configs").glob("*.yaml"))
        raise FileNotFoundError(
            errors.message(
                "`config` must be an existing YAML file.", f"In configs/: {', '.join(shipped) or 'none'}.", config=str(path)
            )
        )
    try:
        values = strict_yaml.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        expected = f"`config` must be readable YAML; the parser says: {_said_of(error)}."
        raise ValueError(errors.message(expected, _mend(error), config=str(path))) from None
    if not isinstance(values, dict):
        raise ValueError(errors.message("A config file must hold a mapping.", "See configs/quickstart.yaml.", config=values))
    if {"config", "stages", "files"} <= values.keys():
        fix = "The configuration of that run is config.yaml beside it."
        expected = "`config` must be a configuration, and this is the report of a run."
        raise ValueError(errors.message(expected, fix, config=str(path)))
    return values


def _said_of(error):
    """What a parser of YAML says is wrong, and where, in a line."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem:
        return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    mark = error.problem_mark or error.context_mark
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{error.problem.rstrip('.')}{where}"


def _mend(error):
    if isinstance(error, UnicodeDecodeError):
        return "Save it as UTF-8."
    if isinstance(error, yaml.MarkedYAMLError):
        return "Mend that line: spaces indent, and a space stands behind each colon."
    return "Look at the value it names, or write fewer levels of them."


def _parsed(override):
    """`(path, value)` of a `"section.key=value"` string."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(errors.message("`--set` takes key=value.", "For example --set train.epochs=3.", set=override))
    try:
        value = strict_yaml.load(text)
    except (yaml.YAMLError, RecursionError) as error:
        expected = f"`--set` takes a YAML value; the parser says: {_said_of(error)}."
        fix = "Write a number, a text in quotes, or lists and mappings of these."
        raise ValueError(errors.message(expected, fix, set=override)) from None
    return key.split("."), number_or_text(value)


def _with(node, path, value):
    """A copy of nested mappings and lists with the value at `path` replaced."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list) and head.isdecimal() and int(head) < len(node):
        return [_with(item, rest, value) if i == int(head) else item for i, item in enumerate(node)]
    node = dict(node) if isinstance(node, dict) else {}
    node[head] = _with(node.get(head), rest, value)
    return node


def _inside_sentence(text):
    """A sentence that goes on after a colon; names such as ADMM keep their capitals."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


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
            expected = f"`{key}` in {origin}: {_inside_sentence(text)}."
            # Checks of ours say themselves what was received.
            received = {path[-1] if path else "config": problem["input"]}
            fix = "Correct the value."
            if "valid dictionary" in text and _UNSPACED.fullmatch(str(problem["input"])):
                fix = "YAML wants a space after the colon of a key, and a line for each, or {key: value, key: value}."
            lines.append(expected if "Received: " in text else errors.message(expected, fix, **received))
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
    own = [f"method.{name}" for method in methods.names() for name in methods.fields(method)] if section is Regularize else []
    return [".".join([*prefix, name]) for name in (*section.model_fields, *own)]
