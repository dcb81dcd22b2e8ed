"""`tf-reweight sweep`: the front of a metric against what models cost."""

import json

from absl import flags

_BUDGETS = ("macs=0.75", "macs=0.5", "macs=0.25")


def definer(define_compress):
    """A function that defines the flags: those of `compress`, but for the budget, of which there are several."""

    def define(values):
        define_compress(values)
        words = f"one budget of the sweep, as macs=0.5; repeated; default {', '.join(_BUDGETS)}"
        flags.DEFINE_multi_string("budgets", [], words, flag_values=values)

    return define


def runner(overrides_of):
    """The command: `(flag values, arguments) -> exit status`; `overrides_of` makes overrides of the flags for keys."""

    def sweep(values, positional):
        from tf_reweight import errors, workflow
        from tf_reweight.reports.progress import terminal

        nameless = values.config is None and (values.model is None or values.data is None)
        if positional or values.budget is not None or values.dry_run or nameless:
            fix = "For example --model mine.keras --data my_data.py:load --budgets macs=0.7 --budgets macs=0.4."
            expected = "`sweep` needs --config, or --model and --data, and --budgets; it has no --budget and no --dry_run."
            received = {"model": values.model, "data": values.data, "budget": values.budget, "arguments": positional}
            raise ValueError(errors.message(expected, fix, **received))
        structure = workflow.defaults.CHANNELS if values.structure is None else values.structure
        front = workflow.sweep_by_names(
            values.budgets or _BUDGETS, structure, values.epochs, values.config,
            [*values.set, *overrides_of(values)], values.monitor, values.out, terminal(stderr=values.json),
        )  # fmt: skip
        if values.json:
            print(json.dumps(front.to_dict(), indent=1))
        return 0

    return sweep
