"""Which plans are built, and which of them wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from hwsparse.artifact import Artifact
from hwsparse.errors import StudyError
from hwsparse.latency import Footprint, Measurement, Workload
from hwsparse.pipeline import Finalist
from hwsparse.pipeline.finals import finalist_plans, pick_winner, rounded_plans, subject_of
from hwsparse.pipeline.outcome import Limits
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.search import Candidate, Kind, Offer, build_space
from hwsparse.search.bounds import Bounds
from hwsparse.sparsify import QualityReport
from hwsparse.target import load_target
from tests.latency.examples import matmul, measurement


def finalist(
    label: str, latency_s: float, chosen_by: float | None, error: float = 0.0, held_out: float = 0.0
) -> Finalist:
    """Hand-made: an artifact that the rules do not look at."""
    chosen = None if chosen_by is None else judged(chosen_by, error)
    artifact = cast(Artifact, None)
    plan = Plan("0" * 64)
    return Finalist(label, plan, plan, {}, timed(latency_s), chosen, judged(held_out), artifact)


def judged(value: float, error: float = 0.0) -> QualityReport:
    """Against a dense model of quality 0.9."""
    return QualityReport("top1", value, (value, value), 0.9 - value, (0, 1), error, 20, "own", "calibration")


def timed(latency_s: float, noise: float = 0.01) -> Measurement:
    samples = (latency_s * (1 - noise), latency_s, latency_s * (1 + noise))
    return measurement(Workload.of(matmul(), Choice(), load_target("x86-avx2")), *samples, *samples)


def limited(max_drop: float = 0.02, **bounds: float) -> Limits:
    return Limits(max_drop, Bounds(**bounds))


DENSE = timed(10e-3)


@pytest.mark.parametrize(
    ("finalists", "limits", "wins"),
    [
        ([("a", 5e-3, 0.9), ("b", 4e-3, 0.89), ("c", 3e-3, 0.7)], {}, "b"),
        ([("a", 5e-3, 0.9), ("b", 4e-3, 0.89), ("c", 3e-3, 0.7)], {"max_drop": 0.2}, "c"),
        ([("a", 5e-3, 0.9), ("b", 4e-3, 0.89), ("c", 3e-3, 0.7)], {"max_drop": 0.2, "min_quality": 0.895}, "a"),
        ([("a", 5e-3, 0.9), ("c", 3e-3, 0.7)], {"max_latency_s": 4e-3}, None),
        ([("a", 9.95e-3, 0.9)], {}, None),  # within the noise of dense
        ([("a", 11e-3, 1.0)], {}, None),
        ([("a", 5e-3, 0.88)], {}, "a"),  # the drop allowed, to the last bit
        ([("a", 5e-3, 0.89, 0.01), ("b", 4e-3, 0.89, 0.011)], {}, "a"),  # b's loss is less sure
        ([("a", 5e-3, None)], {"max_drop": 0.0, "min_quality": 0.99}, "a"),  # without data there is nothing to lose
        ([], {}, None),
    ],
)  # fmt: skip
def test_the_winner_is_the_fastest_that_reaches_the_goal(
    finalists: list[tuple[Any, ...]],
    limits: dict[str, float],
    wins: str | None,
) -> None:
    # All are hopeless, and then perfect, on held-out data, which must not choose.
    for held_out in (0.0, 1.0):
        winner = pick_winner([finalist(*each, held_out=held_out) for each in finalists], DENSE, limited(**limits))
        assert (winner and winner.label) == wins


@pytest.mark.parametrize(
    ("latency_s", "chosen_by", "limits", "reason"),
    [
        (5e-3, 0.89, {}, None),
        (9.95e-3, 0.9, {}, "is not faster than dense beyond the noise"),
        (5e-3, 0.9, {"max_latency_s": 4e-3}, "takes longer than 4.00 ms"),
        (5e-3, 0.89, {"max_drop": 0.01}, "lost 1.0 % on the data that choose, with a standard error of 0.5 %: "
                                         "together more than the 1.0 % allowed"),
        (5e-3, 0.89, {"min_quality": 0.9}, "is worth 89.0 % on the data that choose, less than 90.0 %"),
    ],
)  # fmt: skip
def test_who_cannot_win_is_told_why(
    latency_s: float, chosen_by: float, limits: dict[str, float], reason: str | None
) -> None:
    assert limited(**limits).refusal(finalist("a", latency_s, chosen_by, 0.005), DENSE) == reason


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [
        (Footprint(2e6, 3e6), {"max_file_bytes": 2e6, "max_memory_bytes": 3e6}, None),
        (Footprint(2e6, 3e6), {"max_file_bytes": 1e6}, "has files of 2.00 MB, more than 1.00 MB"),
        (Footprint(2e6, 3e6), {"max_memory_bytes": 1e6}, "takes 3.00 MB of memory, more than 1.00 MB"),
        (Footprint(2e6, None), {"max_memory_bytes": 1e6}, "takes an amount of memory that could not be measured here"),
        (None, {"max_memory_bytes": 1e6}, "takes an amount of memory that could not be measured here"),
        (Footprint(2e6, None), {}, None),
    ],
)
def test_what_is_too_large_cannot_win(size: Footprint | None, limits: dict[str, float], reason: str | None) -> None:
    entrant = replace(finalist("a", 5e-3, 0.9), footprint=size)
    assert limited(**limits).refusal(entrant, DENSE) == reason


def test_a_comparison_is_about_the_winner_or_the_fastest_of_the_search() -> None:
    found = [finalist("search 1", 5e-3, 0.9), finalist("search 2", 4e-3, 0.8), finalist("uniform", 3e-3, 0.7)]
    assert subject_of(found, found[0]) is found[0]
    assert subject_of(found, None) is found[1]
    assert subject_of([*found, finalist("dense int8", 2e-3, 0.9)], None) is found[1]
    assert subject_of([], None) is None


def candidate(latency_s: float, quality: float, kind: Kind = "search", error: float = 0.0) -> Candidate:
    ratio = 0.0 if kind == "dense" else round(1 - latency_s, 3)
    plan = Plan.of("0" * 64, {} if kind == "dense" else {"conv": parse_choice(f"unstructured@{ratio}")})
    interval = (latency_s, latency_s)
    return Candidate(plan, latency_s, interval, "predicted", quality, (quality, quality), error, kind)


def test_finalists_are_the_fastest_safe_plan_and_the_best_of_the_front() -> None:
    dense = candidate(0.95, 0.9, "dense")
    fast, unsure, safe = candidate(0.1, 0.5), candidate(0.4, 0.895, error=0.02), candidate(0.5, 0.89, error=0.001)
    uniform, slow = candidate(0.7, 0.89, "uniform"), candidate(0.8, 0.899)
    everything = [dense, fast, unsure, safe, uniform, slow]
    picked = finalist_plans(everything, 2, 0.012)
    assert picked == {"search 1": unsure.plan, "search 2": safe.plan, "uniform": uniform.plan}  # unsure is the knee
    assert finalist_plans(everything, 1, 0.012) == {"search 1": safe.plan, "uniform": uniform.plan}
    assert finalist_plans([dense, uniform], 3, 0.012) == {"search 1": uniform.plan}
    assert finalist_plans([dense], 3, 0.012) == {}
    with pytest.raises(StudyError, match="no result for the dense model"):
        finalist_plans([fast], 3, 0.012)


def test_layers_that_are_rounded_alone_are_what_finalists_are_held_to() -> None:
    dense, sparse = candidate(0.95, 0.9, "dense"), candidate(0.5, 0.89)
    texts = ("block4x4@0.5/int8", "dense/int8", "dense/bfloat16")
    fast, slow = (
        [Offer(Choice(), 1.0, (1.0, 1.0), 0.0), *(Offer(parse_choice(text), ms, (ms, ms), 0.1) for text in kept)]
        for ms, kept in ((0.5, texts), (0.9, texts[:1]))
    )
    space = build_space("0" * 64, {"conv": fast, "head": slow}, uniform=tuple(map(parse_choice, texts)))
    rounded = Plan.of("0" * 64, {"conv": Choice(dtype="int8")})  # the head is no faster
    assert rounded_plans(space) == {
        "dense int8": rounded,
        "dense bfloat16": Plan.of("0" * 64, {"conv": Choice(dtype="bfloat16")}),
    }
    # They are built in any case, and keep no other plan from being built; of mixed types one may be better.
    bytes_alone = replace(candidate(0.1, 0.9, "uniform"), plan=rounded)
    mixed = replace(candidate(0.3, 0.9), plan=Plan.of("0" * 64, {"head": Choice(dtype="int8")}))
    tried = [dense, sparse, bytes_alone, mixed]
    assert finalist_plans(tried, 3, 0.012, [rounded]) == {"search 1": mixed.plan}
    assert finalist_plans([dense, sparse, bytes_alone], 3, 0.012, [rounded]) == {"search 1": sparse.plan}
    assert rounded_plans(build_space("0" * 64, {"head": slow}, uniform=(Choice(dtype="int8"),))) == {}
