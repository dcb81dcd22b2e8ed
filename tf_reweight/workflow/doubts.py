"""What is worth a look in a run's files although every one of them computes what its model does."""

from tf_reweight.export.doubts import is_of_time
from tf_reweight.export.precisions import TABLE
from tf_reweight.reports.metrics import is_slower


def with_doubts(files):
    """The files' figures, each with the sentences that its own check gave and those that a comparison of all files gives.

    Args:
        files: dicts with `name`, `precision`, `num_bytes`, `latency_ms`, `latency_low_ms`, `latency_high_ms` and `doubts`; the
            dense float32 file first.

    Returns:
        List of new dicts whose `doubts` are lists of sentences; none guesses at a time that was measured.
    """
    kept = [[doubt for doubt in file["doubts"] if not is_of_time(doubt)] for file in files]
    return [{**file, "doubts": [*said, *_found(file, files)]} for file, said in zip(files, kept)]


def _found(file, files):
    dense = files[0]
    if file is not dense and is_slower(file, dense):
        yield f"It is slower than {dense['name']}: {file['latency_ms']:.3f} ms to {dense['latency_ms']:.3f} ms here."
    if file["precision"] not in TABLE or not TABLE[file["precision"]].computes_in_integers:
        return
    for other in files[1:]:
        floating = other["precision"] in TABLE and not TABLE[other["precision"]].computes_in_integers
        if floating and other["num_bytes"] < file["num_bytes"] and is_slower(file, other):
            yield (
                f"{other['name']} is smaller and faster, in floats: {other['num_bytes']:,} to {file['num_bytes']:,} bytes, "
                f"{other['latency_ms']:.3f} to {file['latency_ms']:.3f} ms here."
            )
