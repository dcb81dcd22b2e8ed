"""Which way a metric is better: what its object says, else the words of its own name.

A wrong way is worse than none: the gate would pass a ruined file, and a report call a loss a gain. So words count whole, a name
that speaks of a difference or of the opposite says nothing, and neither does one whose words disagree.
"""

import re

import keras

_UP = {
    "acc", "accuracy", "accuracies", "precision", "recall", "sensitivity", "specificity", "auc", "auroc", "auprc", "roc", "iou",
    "miou", "jaccard", "f1", "f2", "fbeta", "fscore", "dice", "r2", "similarity", "correlation", "pearson", "spearman", "kappa",
    "mcc", "tpr", "tnr", "psnr", "ssim", "bleu", "rouge", "ndcg", "mrr", "top",
}  # fmt: skip
_DOWN = {
    "loss", "losses", "error", "errors", "err", "mse", "mae", "mape", "msle", "rmse", "rmsle", "entropy", "crossentropy", "bce",
    "nll", "divergence", "kld", "distance", "dissimilarity", "dssim", "inaccuracy", "hinge", "poisson", "huber", "logcosh",
    "perplexity", "brier", "wer", "cer", "fpr", "fnr",
}  # fmt: skip
# Of two words together, where each alone says nothing or the other way.
_PAIRS = {"f_score": "up", "f_beta": "up", "false_positives": "down", "false_negatives": "down", "log_cosh": "down"}
# What has one of these may be better either way, whatever else it says.
_TURNING = {
    "neg", "negative", "minus", "inverse", "inverted", "inv", "non", "not", "no", "un", "gap", "drop", "delta", "diff",
    "difference", "change", "reduction", "improvement", "gain", "std", "var", "variance", "within", "below", "under", "above",
    "over", "vs",
}  # fmt: skip
# A name that ends in one of these is that of an error, whatever it is the error of.
_ENDS_DOWN = {"loss", "losses", "error", "errors", "err"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def mode_of_metric(metric):
    """`"max"` or `"min"` of a `keras.Metric`; None where nothing says it.

    Keras' own know it, and losses used as metrics are better low. Else the name counts that the metric has itself: with several
    outputs Keras puts that of the output before it, which says nothing of the metric.
    """
    direction = vars(metric).get("_direction")
    if direction is None and isinstance(vars(metric).get("_fn"), keras.losses.Loss):
        direction = "down"
    return {"up": "max", "down": "min"}.get(direction) or mode_of(metric.name)


def mode_of(name):
    """`"max"` or `"min"` by the words in the name of a metric; None where they say nothing, or disagree.

    Example:
        >>> mode_of("mean_iou"), mode_of("dice_loss"), mode_of("accuracy_gap")
        ('max', 'min', None)
    """
    words = _words(name)
    if _TURNING & set(words):
        return None
    if words and words[-1] in _ENDS_DOWN:
        return "min"
    pairs = {_PAIRS[pair] for pair in map("_".join, zip(words, words[1:])) if pair in _PAIRS}
    up, down = bool(_UP & set(words)) or "up" in pairs, bool(_DOWN & set(words)) or "down" in pairs
    return None if up == down else "max" if up else "min"


def _words(name):
    """The words of a name, small, `MeanIoU` and `mean_iou` alike; a number behind a word, as in `top5`, is left out."""
    small = [word for part in name.replace("IoU", "Iou").split("_") for word in _split(part)]
    return [word for word in small if not word.isdigit()]


def _split(part):
    lower = part.lower()
    # Words that have a number in them, as f1 and r2, before those of which a number is counted off.
    return [lower] if lower in _UP | _DOWN | _TURNING else [word.lower() for word in _WORDS.findall(part)]
