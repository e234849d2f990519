"""What must hold of the methods on every task, and whether it does.

    over magnitude           ALPS, and what ships, lose less than magnitude; from ratios of 70 % on beyond doubt
    regrouped over direct    rows regrouped lose less than rows as they come, where rows share choices; corrected or not
    lost in one shot         what ships loses little at 50 %, at 2:4, and dense in int8

Told beside, and not asked for: what is left of the gain over magnitude where that is corrected as well, so that only
where zeros lie tells the two apart; and what correction alone gains, where zeros lie as magnitude has them.

Differences are of the same samples. Knows metrics on all held-out samples and then on every resample of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Column, Table

from hwsparse.pattern import NM, Block
from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify.quality import resampled_interval

CORRECTED = "corrected"  # what a search ships: regrouped, then corrected as a whole
DIRECT = "direct-corrected"  # rows as they come, then corrected as a whole
FAIR = "magnitude-corrected"  # by magnitude alone, then corrected as a whole
BASELINE, BEST, REGROUPED = "magnitude", "alps", "regroup"
LEAST_RATIO, SURE_RATIO = 0.5, 0.7
MOST_LOST = {
    parse_choice(text): most for text, most in (("unstructured@0.5", 0.5), ("2:4", 1.5), ("dense/int8", 0.5))
}  # points

HOLDS = {True: "yes", False: "[bold red]NO", None: "(told)"}

# By method and choice.
Values = Mapping[tuple[str, Choice], np.ndarray]


@dataclass(frozen=True, slots=True)
class Floor:
    """Points gained or, of what is `lost`, lost, with their 95 % interval; and whether that is enough.

    `choice` is what layers were pruned to, or what was removed of the network; `holds` is None of what is told and not
    asked for.
    """

    what: str
    choice: Choice | str
    points: tuple[float, float, float]
    holds: bool | None


def floors(dense: np.ndarray, values: Values) -> Iterator[Floor]:
    """Of everything that was tried, those that say something about it."""
    choices = list(dict.fromkeys(choice for _, choice in values))
    for better, what in ((BEST, "ALPS over magnitude"), (CORRECTED, "corrected over magnitude")):
        for choice in choices:
            if choice.ratio >= LEAST_RATIO and (gain := _gain(values, better, BASELINE, choice)) is not None:
                value, low, _ = gain
                yield Floor(what, choice, gain, (low if choice.ratio >= SURE_RATIO else value) > 0)
    for better, plain, what in (
        (REGROUPED, BEST, "regrouped over direct"),
        (CORRECTED, DIRECT, "regrouped over direct, both corrected"),
    ):
        for choice in filter(shares_rows, choices):
            if (gain := _gain(values, better, plain, choice)) is not None:
                yield Floor(what, choice, gain, gain[0] > 0)
    for better, plain, what in (
        (CORRECTED, FAIR, "corrected over magnitude, both corrected"),
        (FAIR, BASELINE, "magnitude corrected over magnitude"),
    ):
        for choice in choices:
            if choice.ratio >= LEAST_RATIO and (gain := _gain(values, better, plain, choice)) is not None:
                yield Floor(what, choice, gain, None)
    for choice, most in MOST_LOST.items():
        if (CORRECTED, choice) in values:
            lost = points(dense - values[CORRECTED, choice])
            yield Floor(f"at most {most:g} lost in one shot", choice, lost, lost[0] <= most)


def shares_rows(choice: Choice) -> bool:
    """Whether several output rows share what is kept, so that it matters which these are."""
    match choice.pattern:
        case Block(rows=shared) | NM(shared=shared):
            return shared > 1
        case _:
            return False


def points(values: np.ndarray) -> tuple[float, float, float]:
    """In hundredths: a metric or difference, and its interval."""
    low, high = resampled_interval(values)
    return 100 * float(values[0]), 100 * low, 100 * high


def floor_table(name: str, found: list[Floor]) -> Table:
    """A row for each."""
    table = Table("", Column(overflow="fold"), "points", "holds", title=f"{name}: floors")
    for each in found:
        value, low, high = each.points
        text = f"{value:.1f} ({low:.1f} to {high:.1f})"
        table.add_row(each.what, str(each.choice), text, HOLDS[each.holds])
    return table


def _gain(values: Values, better: str, plain: str, choice: Choice) -> tuple[float, float, float] | None:
    if not {(better, choice), (plain, choice)} <= values.keys():
        return None
    return points(values[better, choice] - values[plain, choice])
