"""What is worth a look in a run's files although every one of them computes what its model does."""

from tf_reweight.export.precisions import TABLE
from tf_reweight.reports.metrics import is_slower

# Standard errors above guessing that an accuracy must have.
_MARGIN = 2.0


def with_doubts(files, num_classes=None, num_examples=0):
    """The files' figures, each with the sentences that its own check gave and those that a comparison of all files gives.

    Args:
        files: dicts with `name`, `precision`, `num_bytes`, `test_accuracy`, `latency_ms`, `latency_low_ms`, `latency_high_ms`
            and `doubts`; the dense float32 file first.
        num_classes: of the data; None where they are no classes, or their accuracy is not the only figure.
        num_examples: that `test_accuracy` was measured on.

    Returns:
        List of new dicts whose `doubts` are lists of sentences.
    """
    return [{**file, "doubts": [*file["doubts"], *_found(file, files, num_classes, num_examples)]} for file in files]


def _found(file, files, num_classes, num_examples):
    if num_classes and "test_accuracy" in file:
        chance, share = 1.0 / num_classes, file["test_accuracy"]
        if share <= chance + _MARGIN * (chance * (1.0 - chance) / num_examples) ** 0.5:
            yield f"Its accuracy, {share:.1%} on {num_examples} examples, is that of guessing among {num_classes}."
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
