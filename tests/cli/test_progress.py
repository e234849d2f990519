"""What a job says of itself while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hwsparse.cli.progress import StageProgress, search_note
from hwsparse.plan import Plan, parse_choice
from hwsparse.search import Candidate

MODEL = "ab" * 32


def candidate(latency_s: float, quality: float, sparse: bool = True) -> Candidate:
    plan = Plan.of(MODEL, {"a": parse_choice(f"unstructured@{1 - latency_s:.3f}")} if sparse else {})
    return Candidate(plan, latency_s, (latency_s, latency_s), "predicted", quality, (quality, quality), 0.0)


KNOWN = (candidate(0.8, 0.9, sparse=False), candidate(0.4, 0.893), candidate(0.2, 0.5), candidate(0.5, 0.4))


def shown(*, terminal: bool = False, quiet: bool = False, max_drop: float | None = 0.01, steps: int = 30) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160)
    with StageProgress(console, max_drop, quiet) as progress:
        for done in range(steps + 1):
            progress("dense layers", done, steps, ())
        for done in range(1, steps + 1):
            progress("search", done, steps, KNOWN)
        for done in range(3):
            progress("finalists", done, 2, KNOWN)
    return out.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    lines = shown().splitlines()
    assert lines[0].startswith("dense layers: done in ")
    assert [line.split(",")[0] for line in lines[1:-2]] == [f"search: {done} of 30" for done in range(3, 30, 3)]
    assert lines[-2].startswith("search: done in ") and lines[-1].startswith("finalists: done in ")


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_search_has_no_more_lines_than_trials(steps: int) -> None:
    assert len(shown(steps=steps).splitlines()) <= 3 + steps


def test_quiet_is_quiet() -> None:
    assert shown(quiet=True) == shown(quiet=True, terminal=True) == ""


def test_a_terminal_has_a_bar_with_what_was_found() -> None:
    assert "front of 3, hypervolume 0." in shown(terminal=True)


def test_what_was_found_in_words() -> None:
    """The hypervolume by hand: seconds times quality, up to 0.8 s and 0, of 0.72."""
    area = (0.4 - 0.2) * 0.5 + (0.8 - 0.4) * 0.893
    assert search_note(KNOWN, 0.01) == (
        f"front of 3, hypervolume {area / 0.72:.3f}, within 0.01: 400 ms, 2.00\u00d7"
    )  # fmt: skip
    assert search_note(KNOWN, 0.001).endswith("within 0.001: 800 ms, 1.00\u00d7")
    assert search_note(KNOWN, None) == "front of 3, fastest 200 ms"
    assert search_note(KNOWN[1:], 0.01) == "front of 2, fastest 200 ms"


def test_a_quality_below_nothing_has_no_hypervolume() -> None:
    losses = (candidate(0.8, -0.1, sparse=False), candidate(0.4, -0.2))
    assert search_note(losses, 0.2) == "front of 2, within 0.2: 400 ms, 2.00\u00d7"


def test_the_latency_that_is_asked_for_is_part_of_the_budget() -> None:
    assert search_note(KNOWN, 0.01, 0.5).endswith("within 0.01 and 500 ms: 400 ms, 2.00\u00d7")
    assert search_note(KNOWN, 0.01, 0.3).endswith("nothing yet within 0.01 and 300 ms")


def test_lines_tell_the_time_that_is_left() -> None:
    assert all(
        line.endswith(" s left") for line in shown().splitlines() if line.startswith("search: ") and " of " in line
    )
