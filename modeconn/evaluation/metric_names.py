"""Names of metrics that say which way is better: accuracy, F1, AUC and the like."""

import re

# As words, in lower case and without numbers at their end: acc1, top5, map50.
_HIGHER = re.compile(
    "accurac(y|ies)|acc|top|correct|f|fscore|dice|m?iou|jaccard|auc|auroc|auprc|aucroc|precision|recall|sensitivity|"
    "specificity|map|ap|ndcg|mrr|(sacre)?bleu|rougel?|meteor|chrf|cider|r|kappa|mcc|psnr|ssim|pearson|spearman|reward|"
    "likelihood|hits"
)
_NUMBERED = frozenset(["f", "r", "top", "hits"])  # only with a number: F1, R2, top 5
_LOWER = re.compile("err(ors?)?|loss(es)?|nll|neg(ative)?|wrong|drop|gap|minus|inverse|distance|perplexity")


def says_higher_is_better(name: str) -> bool:
    """Whether a metric's name says that more of it is better.

    >>> [says_higher_is_better(name) for name in ("accuracy", "val_acc@1", "macro-F1", "mIoU", "top-5 accuracy", "R2")]
    [True, True, True, True, True, True]
    >>> [says_higher_is_better(name) for name in ("error", "loss", "1 - accuracy", "accuracy drop", "factor", "score")]
    [False, False, False, False, False, False]
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # valAccuracy
    words = re.findall(r"[a-z]+|\d+", f"{name} {apart}".lower())
    if re.match(r"\s*1\s*[-\u2212]", name) or any(map(_LOWER.fullmatch, words)):
        return False
    return any(
        _HIGHER.fullmatch(word) is not None and (word not in _NUMBERED or following.isdigit())
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )
