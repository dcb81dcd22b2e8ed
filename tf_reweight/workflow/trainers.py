"""Which trainer fits the model of a stage: the table of trainers, and what a configuration says of them."""

from tf_reweight import registry
from tf_reweight.workflow.distillation import Distilled
from tf_reweight.workflow.trainer import Plain, Trainer

_BY_NAME = {cls.name: cls for cls in (Plain,)}


def names():
    """The names that `get` and every config accept; distillation has a section of its own, `distill`."""
    return tuple(_BY_NAME)


def get(identifier):
    """A trainer from a name, a config `{"name": ..., **fields}`, or a trainer itself."""
    return registry.build("trainer", Trainer, _BY_NAME, identifier)


def register(cls):
    """Teaches the table a trainer of yours, so that `trainer` of a configuration knows it by its name.

    Args:
        cls: a frozen dataclass derived from `trainer.Trainer`, with a `name` and `trainee`; see docs/extending.md.

    Returns:
        The class, so that this can decorate it.

    Example:
        >>> register(MyTrainer)
        >>> compress({"trainer": {"name": "my_trainer", "radius": 0.1}})
    """
    return registry.add("trainer", Trainer, _BY_NAME, cls)


def of(config):
    """The trainer that a `Config` asks for."""
    if config.distill is not None:
        return Distilled(**config.distill.model_dump())
    return get(config.trainer)


def of_stage(config, step):
    """The trainer of the stage whose section is `step`."""
    chosen = of(config)
    return chosen if chosen.stages is None or step in chosen.stages else Plain()
