"""The command `phone`."""

from absl import flags

from tf_reweight.cli.arguments import check_needed, define_shape, one, shapes_of, show


def define(values):
    """Its flags."""
    define_shape(values)
    flags.DEFINE_string("out", None, "folder to write: the file, and a script that measures it on a phone", flag_values=values)
    flags.DEFINE_multi_string("read", [], "a log that the benchmark tool wrote; may be repeated", flag_values=values)
    flags.DEFINE_integer("threads", 4, "of the phone's CPU", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("runs", 50, "measured inferences, at least", lower_bound=1, flag_values=values)


def phone(values, positional):
    """Writes a script that measures a file on a phone, or reads the logs that it brought back."""
    from tf_reweight import errors

    if bool(values.read) == (values.out is not None) or (values.read and positional):
        fix = "For example: tf-reweight phone model.tflite --out phone, and then tf-reweight phone --read phone/cpu.log."
        expected = "Expected FILE.tflite and --out, or --read alone."
        raise ValueError(errors.message(expected, fix, arguments=positional, out=values.out, read=values.read))
    check_needed(values, {name: "out" for name in ("threads", "runs", "shape")})
    return _read(values) if values.read else _written(values, positional)


def _read(values):
    from tf_reweight.tflite.phone_log import read_log

    found = [read_log(path) for path in values.read]
    figures = [item.to_dict() for item in found]
    show(values, figures if len(figures) > 1 else figures[0], [table for item in found for table in item.to_tables()])
    return 0


def _written(values, positional):
    from tf_reweight.tflite.phone import write_script

    path = one(positional, "FILE.tflite")
    said = write_script(path, values.out, values.threads, values.runs, shapes_of(values.shape))
    show(values, {"out": values.out, "foreign": list(said)}, [])
    if not values.json:
        print(f"{values.out}/run.sh measures {path.name} on a phone that adb reaches, and brings the logs back.")
        for sentence in said:
            print(f"{sentence}: the benchmark tool refuses it.")
    return 0
