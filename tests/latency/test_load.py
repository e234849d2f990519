from __future__ import annotations

import pytest

from hwsparse.latency.load import FULL_SHARE, load_note, taken_by_others


@pytest.mark.parametrize("share", [1.0, FULL_SHARE])
def test_a_cpu_of_ones_own_is_not_worth_a_word(share: float) -> None:
    assert (taken_by_others(share), load_note(share)) == ("", "")


def test_what_others_took_is_said() -> None:
    assert taken_by_others(0.5) == "other processes took 50% of the CPU"
    assert load_note(0.9).startswith("While some of it was timed, other processes took 10% of the CPU: ")
