"""`tf-reweight sweep`: the front of a metric against what models cost."""

from absl import flags

from tf_reweight.cli.running import command_of, define_run, overrides_of
from tf_reweight.strict_json import to_json

_BUDGETS = ("macs=0.75", "macs=0.5", "macs=0.25")


def define(values):
    """The flags: those of `compress`, with several budgets for one."""
    define_run(values)
    words = f"one budget of the sweep, as macs=0.5; repeated; default {', '.join(_BUDGETS)}"
    flags.DEFINE_multi_string("budgets", [], words, flag_values=values)


def sweep(values, positional):
    """The command: `(flag values, arguments) -> exit status`."""
    from tf_reweight import errors, workflow
    from tf_reweight.reports.progress import terminal

    nameless = values.config is None and (values.model is None or values.data is None)
    if positional or nameless:
        fix = "For example --model mine.keras --data my_data.py:load --budgets macs=0.7 --budgets macs=0.4."
        expected = "`sweep` needs --config, or --model and --data, and --budgets."
        received = {"model": values.model, "data": values.data, "arguments": positional}
        raise ValueError(errors.message(expected, fix, **received))
    front = workflow.sweep_by_names(
        values.budgets or _BUDGETS,
        structure=workflow.defaults.CHANNELS if values.structure is None else values.structure,
        epochs=values.epochs, config=values.config, overrides=overrides_of(values), monitor=values.monitor, out=values.out,
        console=terminal(stderr=values.json), command=command_of("sweep", values),
    )  # fmt: skip
    if values.json:
        print(to_json(front.to_dict(), indent=1))
    return 0
