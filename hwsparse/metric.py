"""The metrics that a network can be judged by: what each is of, and what it is called.

More is better, of every one. Knows neither data nor how a metric is worked out (`sparsify/scores.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# classes: one score per class, and a label is a class's index. pairs: one embedding per row, rows 2i and 2i + 1 are a
# pair, and a label is how alike they are.
Kind = Literal["classes", "pairs"]
ROWS_PER_LABEL: dict[Kind, int] = {"classes": 1, "pairs": 2}


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to judge a network's answers.

    Where `own`, labels are not given: they are the dense network's own answers.
    """

    kind: Kind
    title: str  # as on an axis
    short: str  # as over a column
    percent: bool = False  # a share, told in percent
    own: bool = False


# The first of its kind, with labels or without, is the one that data are judged by if nobody says otherwise.
METRICS: dict[str, Metric] = {
    "top1": Metric("classes", "Top-1 accuracy", "Top-1", percent=True),
    "f1": Metric("classes", "Macro F1", "F1", percent=True),
    "neg_log_loss": Metric("classes", "Log loss, negated", "\u2212Log loss"),
    "agreement": Metric("classes", "Agreement with the dense model", "Agreement", percent=True, own=True),
    "spearman": Metric("pairs", "Spearman correlation", "Spearman"),
    "pearson": Metric("pairs", "Pearson correlation", "Pearson"),
    "pair_agreement": Metric("pairs", "Spearman correlation with the dense model", "Agreement", own=True),
}
