"""Stages of the user's, by the names that configurations have for them, and the sections that set them."""

import pydantic

from tf_reweight import errors

# Name of a step -> pydantic model of its section, or None for one without settings.
OWN = {}


def add(step, settings):
    """Enters a step; see `stages.register`."""
    if settings is not None and not (isinstance(settings, type) and issubclass(settings, pydantic.BaseModel)):
        fix = "Derive it from pydantic.BaseModel, or pass None."
        raise TypeError(errors.message("`settings` must be a pydantic model.", fix, settings=settings))
    if not isinstance(step, str) or not step.isidentifier():
        raise ValueError(errors.message("The name of a step must be a word.", "For example 'noise'.", step=step))
    OWN[step] = settings


def gathered(values):
    """A configuration's values with the sections of own steps, which stand beside the others, put under `own`."""
    sections = {name: section for name, section in values.items() if name in OWN}
    rest = {name: value for name, value in values.items() if name not in OWN}
    return {**rest, "own": {**rest.get("own", {}), **sections}} if sections else rest


def checked(sections):
    """Mapping of each own step with settings to them; a section that is missing has the defaults.

    Raises:
        ValueError: for an unknown step, or a wrong key or value in its section.
    """
    for step in sections:
        if step not in OWN:
            raise ValueError(errors.unknown("stage of your own", step, list(OWN) or ["(none is registered)"]))
    try:
        return {step: model.model_validate(sections.get(step, {})) for step, model in OWN.items() if model is not None}
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']} (in the section of a stage of your own)") from None
