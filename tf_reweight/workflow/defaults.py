"""What a run does when nobody says more than a structure and a number of epochs: a configuration without a strength."""

import collections
import re

from tf_reweight import budget as budgets
from tf_reweight import errors, structures
from tf_reweight.checks import EPOCHS, check_integer, check_name, is_integer
from tf_reweight.coupling.pruning import least_left, removable
from tf_reweight.graph import compiled
from tf_reweight.graph.lora import check_merged
from tf_reweight.workflow import config as configs
from tf_reweight.workflow import fingerprints, methods

CHANNELS = "channels"
_SINGLE = "unstructured"
# What goes where nobody says how much: of the computing, of single weights, and of larger groups.
_MACS, _WEIGHTS, _GROUPS = 0.5, 0.8, 0.5
# Kernels of integers are fastest at multiples of 8 channels; small nets have no such choice.
_MULTIPLES = (8, 4, 2, 1)
# More than a budget asks for must be within reach, or each layer would be left with what it cannot lose.
_ROOM = 0.1
# What a file has is known only once it is written. Until then it goes by what fills it or takes its time, of which this many
# times less must be within reach: a file has fixed costs besides.
_FILLED_BY = {"bytes": "parameters", "zipped_bytes": "parameters", "latency_ms": "macs"}
_FIXED_COSTS = 10
# Of bytes, what a file has with nothing in it, and so much more for each kernel: about that in files of every precision.
_EMPTY_FILE = {"bytes": (1000, 500), "zipped_bytes": (500, 250)}
_DEADLINE = "deadline"
_PRESSED = 10  # epochs in which groups are drawn to zero
# The part of them before the deadline. That of single kernels may be late: `retrain` recovers what they lose, with a learning
# rate that begins anew.
_UNTIL_OF_CHANNELS, _UNTIL_OF_KERNELS = 0.5, 0.9
_FINE = 0.2  # learning rate of stages that only polish, relative to the optimizer's
# Keys of `regularize` that say how zeros are found; of its rules, and of `coupled`, all that penalties have.
_HOW = {"method", *methods.BESIDE}
_OF_PENALTIES = {"strength", "price", "relative", "criterion"}
_ROUNDS = 4  # of other methods, between which penalties are renewed
_NEVER_WITHOUT = ("regularize", "quantize")  # stages that train for one epoch at least
_STAGES = ("train", "regularize", "retrain", "cluster", "quantize")


def configuration(model, task, structure, budget, epochs, given, monitor, mode):
    """A configuration as a mapping: what `given` says, and for what it does not say defaults that fit the model.

    Args:
        model: a built model.
        task: the `Task` it was compiled for, or None.
        structure: `"channels"` for channels that go together over the whole graph, or the name, config or `Structure` of single
            kernels.
        budget: a `Budget`, its mapping or text: what may be left; None for half of the computing, or a fifth of the single
            weights.
        epochs: one number for all stages together, of which those whose section says 0 take none, a dict by stage of the epochs
            each time that it comes, or None.
        given: a configuration as a mapping, with what it says alone.
        monitor, mode: see `sections.Task`.

    Raises:
        ValueError: for a budget, epochs or a structure that cannot be.
    """
    # A stage whose section is null is not asked for; every resolved configuration has some.
    given = {name: section for name, section in given.items() if section is not None or name not in configs.STEPS}
    made = {"name": _name_of(model)} | given
    trained = compiled.steps_taken(model) > 0
    for name, section in given.items():
        no_section = section is not None and name in (*configs.STEPS, "task") and not isinstance(section, dict)
        if no_section or name == "stages":
            configs.load({name: section})  # which refuses what is no section, and stages that cannot follow each other
    section, prune = _section(given, "regularize"), _section(given, "prune")
    amounts = {name: prune[name] for name in methods.AMOUNTS if prune.get(name) is not None}
    if amounts and budget is not None:
        expected = "How much goes is said twice, by `budget` and by prune."
        raise ValueError(errors.message(expected, "Leave one of them out.", budget=budget, prune=amounts))
    # Who configures both sections has the defaults of a configuration, where the method is reweighting.
    own_way = _says_how(section) or bool(section) and any(value is not None for value in prune.values())
    if isinstance(structure, str):  # the table of structures does not know of channels
        check_name("structure", structure, (CHANNELS, *structures.names()))
    structure = _structure_of(section, structure)
    made["regularize"] = _pressing(section, structure, own_way)
    method = methods.get(made["regularize"].get("method", "reweighted"))
    if budget is not None or not amounts and method.needs_sparsity:
        made |= _amounts(model, made, structure, budget)
    _set_epochs(made, epochs, trained)
    _set_rates(made, task)
    for name, value in (("monitor", monitor), ("mode", mode)):
        if value is not None:
            made["task"] = {**_section(made, "task"), name: value}
    return made


def _says_how(section):
    """Whether the section `regularize` says how zeros are found, other than by a deadline, the method of the defaults.

    Several rules add up, as penalties alone do.
    """
    how = _HOW & set(section)
    if how == {"method"} and _name_and_fields(section["method"]).get("name") == _DEADLINE:
        how = set()
    rules = rules_of(section)
    parts = [*rules, section["coupled"]] if isinstance(section.get("coupled"), dict) else rules
    return bool(how) or len(rules) > 1 or any(_OF_PENALTIES & set(part) for part in parts)


def rules_of(section):
    """The rules that the section `regularize` lists, those that are mappings; what is none is refused later."""
    rules = section.get("rules")
    return [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []


def _structure_of(section, structure):
    """The structure that the section `regularize` names, else the one given; what is none is refused later."""
    if section.get("coupled") is not None:
        return CHANNELS
    rules = rules_of(section)
    if rules:
        return rules[0].get("structure", _SINGLE)
    # A method that knows no channels has the rule of a configuration.
    return structure if structure != CHANNELS or _takes_channels(section) else _SINGLE


def _pressing(section, structure, own_way):
    """The section `regularize`: what it does not say is of the structure, and, where it does not say how, by a deadline."""
    if not own_way:
        # Whoever names the method has its defaults for the fields that are not said.
        method = _method(structure) | _name_and_fields(section.get("method"))
        section = {"rounds": 1, "every": _PRESSED, **section, "method": method}
    said = "rules" in section or section.get("coupled") is not None
    return section if said else section | _rules(structure)


def _takes_channels(section):
    """Whether the method can have channels; one that is none is refused later."""
    name = _name_and_fields(section.get("method", "reweighted")).get("name")
    return name not in methods.names() or methods.get(name).couples


def _method(structure):
    """How zeros are found: towards the budget by a deadline, where groups go one by one."""
    decides = structure != CHANNELS and structures.get(structure).decides
    if decides:
        return {"name": "one_shot"}
    # The whole stage draws them to zero here, and `retrain` recovers: later than where one `fit` does both.
    return {"name": _DEADLINE, "until": _UNTIL_OF_CHANNELS if structure == CHANNELS else _UNTIL_OF_KERNELS}


def _name_and_fields(method):
    """What a configuration says of a method, as a mapping; of what is neither a name nor a mapping, nothing."""
    if isinstance(method, str):
        return {"name": method}
    return method if isinstance(method, dict) else {}


def _name_of(model):
    """The model's name as that of a run, and of its folder: without what such a name may not have."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", fingerprints.name_of(model))[:configs.LONGEST_NAME]
    return name if name.strip(".") else "model"


def _rules(structure):
    return {"coupled": {}} if structure == CHANNELS else {"rules": [{"structure": structures.get(structure).serialize()}]}


def _amounts(model, made, structure, budget):
    """The sections `prune` and `shrink`, where `prune` does not say yet how much goes."""
    budget, prune = budgets.get(budget), _section(made, "prune")
    structure = _structure_of(made["regularize"], structure)
    if made["regularize"].get("coupled") is None:
        return {"prune": prune | (_default_of(structure) if budget is None else {"budget": budget.to_dict()})}
    shrink, shrinks = _section(made, "shrink"), "shrink" in _steps(made, "shrink")
    # Channels that stay in the model as zeros need no multiple.
    multiples = _MULTIPLES if shrinks else [1]
    multiples = [shrink["multiple_of"]] if "multiple_of" in shrink else multiples
    asked = budgets.Budget(macs=_MACS) if budget is None else budget
    least = {multiple: _least_left(model, multiple) for multiple in multiples}
    kernels = sum(len(weight.shape) > 1 for weight in model.weights)
    fitting = [multiple for multiple, left in least.items() if _within_reach(asked, left, kernels)]
    multiple = fitting[0] if fitting else multiples[-1]
    if budget is None:
        # Of a model that can give little, half of that: all that it can give would leave one channel in each place.
        reached, everything = least[multiple]["macs"]
        budget = asked if fitting else budgets.Budget(macs=round((1.0 + reached / everything) / 2, 3))
        if not fitting:
            _warn_of_little(model, budget, reached / everything)
    method = _name_and_fields(made["regularize"].get("method"))
    # What knows the budget meets it with the channels that are left in the end.
    if method.get("name") in methods.names() and "multiple_of" in methods.fields(method["name"]):
        made["regularize"] = {**made["regularize"], "method": {"multiple_of": multiple, **method}}
    sections = {"prune": {**prune, "budget": budget.to_dict()}}
    return sections | ({"shrink": {"multiple_of": multiple, **shrink}} if shrinks else {})


def _warn_of_little(model, budget, reached):
    """Says that half of the computing is not what goes, and why."""
    text = f"{_MACS:.0%} of the MACs cannot go, which is the default: with a channel left in each place {reached:.1%} stay."
    said = " ".join(part for part in (text, removable(model).held_up()) if part)
    fix = 'Pass budget=..., or structure="unstructured", which also takes weights inside layers of your own.'
    errors.warn(f"{said} The budget is {budget} instead. {fix}")


def _least_left(model, multiple_of):
    """`least_left`, whose error names what can be done without channels."""
    check_merged(model)
    try:
        return least_left(model, multiple_of)
    except (TypeError, ValueError) as error:
        raise type(error)(f'{error} Or pass structure="unstructured" (--structure), which needs no channels.') from None


def _within_reach(budget, least, kernels):
    """Whether a budget leaves clearly more than what has to stay, by `least_left`, of a model of so many kernels."""
    return all(_leaves_room(name, amount, least, kernels) for name, amount in budget.amounts.items())


def _leaves_room(name, amount, least, kernels):
    if name == "accuracy_drop":
        name, amount = "macs", 1.0  # the search begins with little and ends where no more can go
    elif name == "sparsity":
        name, amount = "weights", 1.0 - amount
    elif name == "latency_ms" and amount > 1:
        return False  # nothing tells yet how many milliseconds the dense model takes
    reached, everything = least[_FILLED_BY.get(name, name)]
    if name not in _FILLED_BY:
        return reached / everything < (amount if amount <= 1 else amount / everything) - _ROOM
    file, kernel = _EMPTY_FILE.get(name, (0, 0))
    empty = file + kernels * kernel
    allowed = amount if amount > 1 else amount * (everything + empty)
    return reached < (allowed - empty) / _FIXED_COSTS


def _default_of(structure):
    """How much goes where a structure does not say so itself."""
    found = structures.get(structure) if structure != CHANNELS else None
    if found is None or found.decides:
        return {}
    return {"sparsity": _WEIGHTS if found.name == _SINGLE else _GROUPS}


def _set_epochs(made, epochs, trained):
    """Puts epochs into the sections of the stages."""
    method = methods.get(made["regularize"].get("method", "reweighted"))
    training = [name for name in _steps(made) if name in _STAGES and (name != "regularize" or method.trains)]
    if trained and "epochs" not in _section(made, "train"):
        _set_stage(made, "train", 0)
    if epochs is None:
        return
    if is_integer(epochs):
        # A stage that is said not to train takes none of them.
        idle = {name for name in training if _section(made, name).get("epochs") == 0} | ({"train"} if trained else set())
        shares = _shared(epochs, [name for name in training if name not in idle], _rounds(made))
    else:
        shares = _checked_epochs(epochs, training)
    for name, num in shares.items():
        if name in training:
            _set_stage(made, name, num)


def _checked_epochs(epochs, training):
    """Epochs by stage, as they are given, where the run has these stages and they train."""
    if not isinstance(epochs, dict):
        fix = 'For example 20, or {"train": 0, "retrain": 8}.'
        raise ValueError(errors.message("`epochs` must be a number, or one for each stage.", fix, epochs=epochs))
    for name, num in epochs.items():
        if name not in _STAGES:
            raise ValueError(errors.unknown("stage with epochs", name, _STAGES))
        least = 1 if name in _NEVER_WITHOUT and name in training else 0
        check_integer(f"epochs[{name!r}]", num, least, fix=EPOCHS)
        if num and name not in training:
            expected = f"`epochs` must be of stages that train in this run: {', '.join(dict.fromkeys(training))}."
            fix = f"Leave {name!r} out, or ask for such a stage in `config`."
            raise ValueError(errors.message(expected, fix, epochs=epochs))
    return epochs


def _shared(epochs, stages, rounds):
    """A number of epochs by stage: shared out evenly, one at least for each time that a stage comes.

    The sum is that number. Where every stage that can take the rest comes several times, a smaller rest is left over.

    Args:
        epochs: of all stages together.
        stages: names of those that train, in order, each as often as it comes.
        rounds: of the stage `regularize`, which trains for whole rounds.
    """
    check_integer("epochs", epochs, 0, fix=EPOCHS)
    if epochs and not stages:
        fix = 'Pass {"train": ...} to train it on, or name a stage such as `retrain` in `stages` of `config`.'
        raise ValueError(errors.message("`epochs` need a stage to go to: the model is trained already.", fix, epochs=epochs))
    if epochs < len(stages):
        expected = f"`epochs` must be at least {len(stages)}, one for each stage that trains: {', '.join(stages)}."
        fix = 'Pass more, or a number for each stage, such as {"train": 0, "retrain": 8}.'
        raise ValueError(errors.message(expected, fix, epochs=epochs))
    if not stages:
        return {}
    times = collections.Counter(stages)
    each, rest = divmod(epochs, len(stages))
    shares = dict.fromkeys(times, each)
    # Later stages get the rest: they work with less that can be trained.
    for name in reversed(shares):
        if times[name] <= rest:
            shares[name] += 1
            rest -= times[name]
    others = [name for name in reversed(shares) if name != "regularize"]
    if "regularize" in shares and others:
        incomplete = shares["regularize"] % min(rounds, shares["regularize"])
        shares["regularize"] -= incomplete
        rest += incomplete * times["regularize"]
    for name in sorted(others, key=lambda name: name != "retrain"):
        more, rest = divmod(rest, times[name])
        shares[name] += more
    return shares


def _set_stage(made, name, num):
    section = _section(made, name)
    if name == "regularize":
        rounds = _rounds_within(made, num)
        made[name] = {**section, "rounds": rounds, "every": num // rounds}
    else:
        made[name] = {**section, "epochs": num}


def _rounds(made):
    """Rounds of the stage `regularize`, as its section says them or by default."""
    rounds = made["regularize"].get("rounds", _ROUNDS)
    check_integer("regularize.rounds", rounds, 1)
    return rounds


def _rounds_within(made, num):
    """Rounds that so many epochs can be divided into: those of the configuration, and fewer where the epochs are fewer."""
    rounds = min(_rounds(made), num)
    if num % rounds and "rounds" in made["regularize"]:
        fix = f"Pass {num - num % rounds} or {num - num % rounds + rounds} epochs, or leave regularize.rounds out."
        expected = "The epochs of the stage `regularize` must be a multiple of its rounds."
        raise ValueError(errors.message(expected, fix, epochs=num, rounds=rounds))
    return max(divisor for divisor in range(1, rounds + 1) if num % divisor == 0)


def _set_rates(made, task):
    """The learning rate of the user's optimizer in every stage that does not name one."""
    if task is None or task.optimizer is None:
        return
    for name in _STAGES:
        if name not in _steps(made):
            continue
        rate = task.learning_rate * (_FINE if name in ("cluster", "quantize") else 1.0)
        made[name] = {"learning_rate": rate, **_section(made, name)}


def _steps(made, *asked):
    """The stages of the run; where `stages` does not name them, those with a section, and those asked for."""
    if made.get("stages") is not None:
        return made["stages"]
    return [name for name in configs.STEPS if name not in configs.OPTIONAL or name in made or name in asked]


def _section(made, name):
    return made.get(name) or {}
