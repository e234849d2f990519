"""What a search may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from hwsparse.errors import InputError
from hwsparse.pipeline import Goal


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"finalists": 0}, {"seed": -1}, {"max_drop": -0.1}, {"max_drop": float("nan")},
              {"within": 0.0}, {"within": float("nan")}, {"ranges": "best"}, {"ranges": "mse"},
              {"ratios": ()}, {"ratios": (1.0,)}],
)  # fmt: skip
def test_a_goal_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Goal(**wrong)
