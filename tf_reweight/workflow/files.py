"""The files of a run: dense and pruned, in every precision, executed, packed, and timed against each other."""

from tf_reweight import export
from tf_reweight.export import mixed, tflite
from tf_reweight.export.classes import CLASSES
from tf_reweight.export.verification import keras_outputs
from tf_reweight.reports.metrics import text_of
from tf_reweight.reports.progress import say
from tf_reweight.workflow.agreement import agreements, execution, where_it_runs
from tf_reweight.workflow.doubts import with_doubts
from tf_reweight.workflow.measures import split_figures
from tf_reweight.workflow.stages import stages_of


def check_convertible(run):
    """Raises ValueError where a run that will train has a model of which no file can be made, or no examples for its files.

    Args:
        run: the `Run`, with no stage done.
    """
    if any(run.config.epochs.values()):
        run.data.inputs(run.model, "train", run.config.export.representative)
        run.data.inputs(run.model, "validation", run.config.export.verify)
        examples, settings = run.data.inputs(run.model, "validation", 1), run.config
        tflite.check_convertible(run.model, examples)
        # Without `shrink` kernels stay as large as they are.
        if settings.export.mixed_bytes is not None and "shrink" not in settings.steps:
            mixed.check_reachable(run.model, settings.export.mixed_bytes, examples)


def export_files(run):
    """Writes every `.tflite` the configuration asks for.

    Args:
        run: the `Run`, with its last stage done.

    Returns:
        `(files, latency)`: a list of dicts, the dense float file first (the export record's figures, `name`, `test_accuracy`
        as executed, `latency_ms` with its spread, `speedup` against the first, and `packed` for packed ones); and how times
        were taken.
    """
    representative = run.data.inputs(run.model, "train", run.config.export.representative)
    held_out = run.data.inputs(run.model, "validation", run.config.export.verify)
    files, refused = [], []
    settings = run.config.export
    for name, model, precision in _wanted(run):
        path = run.folder / f"{name}_{precision}.tflite"
        try:
            record = _written(run, path, model, precision, representative, held_out)
        except (export.VerificationError, ValueError) as error:
            if not files:
                raise  # there is nothing to compare with
            refused.append((name, path, error))
            continue
        files.append(_executed(run, path, model, held_out, record.to_dict()))
        if name != "dense" and settings.pack:
            files += _packed(run, path, model, held_out, record.to_dict())
    _check_refused(run, files, refused)
    timed = export.benchmark([run.folder / file["name"] for file in files], run.config.export.latency_runs)
    how = {name: value for name, value in timed.to_dict().items() if name != "rows"}
    files = [{**file, **times_of(row)} for file, row in zip(files, timed.rows)]
    files = with_doubts(files)
    for file in files:
        for doubt in file["doubts"]:
            say(run.console, f"[bold]export[/bold]: {file['name']}, worth a look: {doubt}")
    return files, how


def _written(run, path, model, precision, representative, held_out):
    """Writes one file; that of mixed precisions has at most `export.mixed_bytes`."""
    settings = run.config.export
    classes = [kind == CLASSES for kind in run.scorer.kinds]
    checks = {"tolerance": settings.tolerance, "verify_arm": settings.verify_arm, "classes": classes}
    if precision == "mixed":
        return export.export_mixed(model, path, settings.mixed_bytes, held_out, **checks)
    return export.export_tflite(model, path, precision, representative, held_out, **checks, accelerated=settings.accelerated)


def _check_refused(run, files, refused):
    """Says which files were not kept; raises where none is left of the model that was to be shipped."""
    for name, path, error in refused:
        # The other files are good, and hours of training are in them.
        say(run.console, f"[bold]export[/bold]: no {path.name}. {error}")
        if name != "dense" and not any(file["name"].startswith(f"{name}_") for file in files):
            raise error
    run.refused = [{"name": path.name, "kind": type(error).__name__, "reason": str(error)} for _, path, error in refused]


def times_of(row):
    """A row of `benchmark`, as figures of a file."""
    names = {"median_ms": "latency_ms", "low_ms": "latency_low_ms", "high_ms": "latency_high_ms"}
    return {names.get(name, name): value for name, value in row.items() if name != "name"}


def _wanted(run):
    """`(name, model, precision)` of every file: dense, as pruned or shrunk, and as clustered or quantized in training."""
    settings, stages = run.config, stages_of(run.config)
    wanted = settings.export.precisions
    plain = [step not in ("cluster", "quantize") for step in settings.steps]
    small = run.model if all(plain) else run.folder.load(stages[plain.index(False) - 1].name)
    files = [("dense", run.folder.load("dense"), precision) for precision in dict.fromkeys(("float32", *wanted))]
    kind = "shrunk" if "shrink" in settings.steps else "pruned"
    files += [(kind, small, "mixed")] if settings.export.mixed_bytes is not None else []
    files += [(kind, small, precision) for precision in wanted]
    if not all(plain):
        last = wanted if settings.quantize is None else [settings.quantize.precision]
        files += [(stages[-1].name, run.model, precision) for precision in last]
    return files


def _executed(run, path, model, held_out, figures):
    """A file's figures, with every metric as executed, and how each output agrees with its model."""
    arrays = run.scorer.arrays(held_out)
    execute = execution(path, model, arrays, figures["precision"])
    # Which file is shipped is decided on validation examples; where there are no others, they stand for test examples too.
    deciding = run.scorer.of_outputs(execute, run.data.validation)
    measured = run.scorer.of_outputs(execute, run.data.test) if run.data.has_test else deciding
    outputs = agreements(run.scorer, keras_outputs(model, arrays), execute(arrays))
    figures = {**figures, **split_figures("validation", deciding), **split_figures("test", measured)}
    head = measured.get(run.metric["name"])
    said = "" if head is None else f": {text_of(run.metric, head)}"
    say(run.console, f"[bold]export[/bold]: {path.name}, {figures['num_bytes']:,} bytes, executed{said}")
    if not figures["fully_accelerated"]:
        say(run.console, f"[bold]export[/bold]: {path.name}, {figures['delegation']['summary']}")
    return {**figures, "path": str(path), "name": path.name, "outputs": outputs}


def _packed(run, path, model, held_out, figures):
    """The same file with its zeros stored sparsely: one entry, or none where that makes nothing smaller."""
    packed = path.with_name(f"{path.stem}_packed.tflite")
    result = export.pack_tflite(path, packed, verify_arm=run.config.export.verify_arm)
    if not result.num_packed:
        packed.unlink()
        say(run.console, f"[bold]export[/bold]: {path.name} stays dense: packed it is no smaller")
        return []
    sizes = export.sizes_of(packed.read_bytes())
    where = {"packed": result.to_dict(), **where_it_runs(packed, model, figures["precision"])}
    return [_executed(run, packed, model, held_out, {**figures, **sizes, **where})]


def app_zip(run):
    """Puts the best file and all an app needs with it into `app.zip`: labels, normalisation, C header, report.

    Args:
        run: the `Run`, with its report written.

    Returns:
        What `model.json` in it says.
    """
    data, path, report = run.data.dataset, run.folder / run.shipped, run.folder / "report.html"
    if data is None:
        return export.bundle(path, run.folder / "app.zip", extra=[report])
    labels = [str(name) for name in data.class_names]
    step = (data.subtracted, data.divided_by)
    return export.bundle(path, run.folder / "app.zip", labels, _preparation(data), [report], normalization=step)


def _preparation(data):
    """How an app makes an input of raw values, in words."""
    shape = " x ".join(map(str, data.input_shape))
    steps = [f"minus {data.subtracted:g}"] if data.subtracted else []
    steps += [f"divided by {data.divided_by:g}"] if data.divided_by != 1.0 else []
    if steps:
        return f"{shape}, raw values {', '.join(steps)}"
    return f"{shape}, raw values as they are" + (f", from 0 to {data.white:g}" if data.white is not None else "")
