"""How well scores tell pictures of a model's classes from those of other things: out-of-distribution (OOD) detection.

A score is a number for each picture, the higher the more familiar it looks. `known` are the scores of pictures of the
classes, `others` those of other things, (N,) arrays by the name of the score. Plain arrays in, plain numbers out.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from stages.lib.results.chance import compute_auroc_interval, describe_share

Scores = Mapping[str, np.ndarray]

TRUE_POSITIVE_RATE = 0.95  # the share of the known that is let in where the field counts how many others are, too
NUM_BINS = 25


def measure_separation(known: Scores, others: Scores, min_confidence: float) -> dict[str, Any]:
    """Measures how well each score tells the known from the others.

    Returns:
        `num_known` and `num_others`; then shares, each followed by its 95 % interval as <name>_low and <name>_high:
        `known_answered`, `others_answered`: those with a `confidence` of at least `min_confidence`.
        `<score>_auroc`: of all pairs of a known and another, those in which the known has the higher score.
        `<score>_fpr_at_95_tpr`: the others that are let in where the limit lets in 95 % of the known.
    """
    num_known, num_others = (len(scores["confidence"]) for scores in (known, others))
    measured: dict[str, Any] = {"num_known": num_known, "num_others": num_others}
    for name, scores in (("known", known), ("others", others)):
        answered = float(np.mean(scores["confidence"] >= min_confidence))
        measured |= describe_share(f"{name}_answered", answered, len(scores["confidence"]))
    for name in known:
        both = np.concatenate([known[name], others[name]])
        auroc = roc_auc_score(np.arange(len(both)) < num_known, both)
        low, high = compute_auroc_interval(known[name], others[name])
        limit = np.sort(known[name])[-math.ceil(TRUE_POSITIVE_RATE * num_known)]
        let_in = float(np.mean(others[name] >= limit))
        measured |= {f"{name}_auroc": round(float(auroc), 6), f"{name}_auroc_low": low, f"{name}_auroc_high": high}
        measured |= describe_share(f"{name}_fpr_at_95_tpr", let_in, num_others)
    return measured


def list_bins(known: Scores, others: Scores, min_confidence: float) -> list[dict[str, Any]]:
    """Lists how the scores are distributed: a row for each bin of a score that has pictures of a kind.

    Returns:
        Of each the `score`, the `pictures`, "known" or "others", the ends of the bin, the `fraction` of these pictures
        in it, and the least that is answered, which only the confidence has.
    """
    rows = []
    for name in known:
        edges = np.histogram_bin_edges(np.concatenate([known[name], others[name]]), NUM_BINS)
        for pictures, scores in (("known", known[name]), ("others", others[name])):
            fractions = np.histogram(scores, edges)[0] / len(scores)
            rows += [
                {
                    "score": name.replace("_", " "),
                    "pictures": pictures,
                    "low": round(float(edges[index]), 3),
                    "high": round(float(edges[index + 1]), 3),
                    "fraction": round(float(fractions[index]), 4),
                    "answered_from": min_confidence if name == "confidence" else None,
                }
                for index in np.flatnonzero(fractions)
            ]
    return rows
