"""What is asked of the methods, on figures made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.floors import Floor, floor_table, floors, points, shares_rows
from hwsparse.plan import Choice, parse_choice

DENSE = np.full(41, 0.9)
CERTAIN, DOUBTFUL = np.zeros(41), np.r_[0.0, np.linspace(-0.1, 0.1, 40)]


def found(values: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], bool | None]:
    asked = floors(DENSE, {(method, parse_choice(text)): each for (method, text), each in values.items()})
    return {(floor.what, str(floor.choice)): floor.holds for floor in asked}


@pytest.mark.parametrize(
    ("text", "gained", "noise", "holds"),
    [
        ("unstructured@0.5", 0.01, DOUBTFUL, True),  # in doubt, which is enough here
        ("unstructured@0.5", 0.0, CERTAIN, False),
        ("unstructured@0.7", 0.01, DOUBTFUL, False),
        ("1:4", 0.01, CERTAIN, True),
        ("1:4", -0.01, CERTAIN, False),
    ],
)
@pytest.mark.parametrize(("method", "what"), [("alps", "ALPS"), ("corrected", "corrected")])
def test_magnitude_is_beaten_beyond_doubt_where_much_goes(
    method: str, what: str, text: str, gained: float, noise: np.ndarray, holds: bool
) -> None:
    values = {("magnitude", text): DENSE - 0.2, (method, text): DENSE - 0.2 + gained + noise}
    asked = {key: holds for key, holds in found(values).items() if "in one shot" not in key[0]}
    assert asked == {(f"{what} over magnitude", text): holds}


def test_rows_are_regrouped_where_they_share() -> None:
    values = {("alps", text): DENSE - 0.2 for text in ("block4x1@0.3", "2:4", "2:4x8")}
    values |= {("regroup", "block4x1@0.3"): DENSE - 0.1, ("regroup", "2:4"): DENSE, ("regroup", "2:4x8"): DENSE - 0.2}
    what = "regrouped over direct"
    assert found(values) == {(what, "block4x1@0.3"): True, (what, "2:4x8"): False}
    both = {("direct-corrected", "2:4x8"): DENSE - 0.1, ("corrected", "2:4x8"): DENSE - 0.05}
    assert found(both) == {(f"{what}, both corrected", "2:4x8"): True}
    assert [shares_rows(parse_choice(text)) for text in ("block1x4@0.5", "unstructured@0.5", "dense")] == [False] * 3


def test_magnitude_corrected_too_is_told_and_not_asked_for() -> None:
    losses = {"magnitude": 0.4, "magnitude-corrected": 0.1, "corrected": 0.15}
    text, less = "unstructured@0.7", "unstructured@0.3"
    values = {(method, each): DENSE - lost for method, lost in losses.items() for each in (text, less)}
    told = list(floors(DENSE, {(method, parse_choice(each)): value for (method, each), value in values.items()}))
    gains = {(each.what, str(each.choice)): (each.points[0], each.holds) for each in told}
    assert gains == {
        ("corrected over magnitude", text): (pytest.approx(25), True),
        ("corrected over magnitude, both corrected", text): (pytest.approx(-5), None),
        ("magnitude corrected over magnitude", text): (pytest.approx(30), None),
    }


def test_what_ships_loses_little() -> None:
    values = {("corrected", "unstructured@0.5"): DENSE - 0.0049, ("corrected", "2:4"): DENSE - 0.016}
    assert found(values) == {
        ("at most 0.5 lost in one shot", "unstructured@0.5"): True,
        ("at most 1.5 lost in one shot", "2:4"): False,
    }


def test_below_half_and_of_one_method_alone_nothing_is_asked() -> None:
    assert found({("magnitude", "unstructured@0.3"): DENSE, ("alps", "unstructured@0.3"): DENSE - 1}) == {}
    assert found({("alps", "block4x1@0.5"): DENSE, ("corrected", "unstructured@0.7"): DENSE}) == {}


def test_points_and_what_is_printed_of_them() -> None:
    assert points(np.array([0.02, 0.01, 0.03])) == pytest.approx((2, 1.05, 2.95))
    rows = [((1.0, 0.5, 1.5), True), ((1.0, 0.0, 2.0), False), ((-1.0, -2.0, 0.0), None)]
    table = floor_table("m", [Floor("w", Choice(), *row) for row in rows])
    assert [list(column.cells) for column in table.columns][2:] == [
        ["1.0 (0.5 to 1.5)", "1.0 (0.0 to 2.0)", "-1.0 (-2.0 to 0.0)"],
        ["yes", "[bold red]NO", "(told)"],
    ]
