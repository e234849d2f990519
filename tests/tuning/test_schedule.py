"""The growth of zeros against the paper's equation, and that every step is a pattern."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.plan import Choice, parse_choice
from hwsparse.tuning.schedule import growing

CHOICES = ("unstructured@0.8", "block4x1@0.9", "channel@0.5", "2:4", "1:4", "2:8x4")


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_ratios_are_those_of_zhu_and_gupta(progress: float, final: float) -> None:
    found = growing(Choice(parse_choice("unstructured@0.5").pattern, final), progress)
    wanted = final + (0 - final) * (1 - progress) ** 3  # equation 1, from s_i = 0 on
    assert math.isclose(found.ratio, wanted, abs_tol=1e-5)


@pytest.mark.parametrize("text", CHOICES)
def test_zeros_grow_from_none_to_all(text: str) -> None:
    choice = parse_choice(text)
    steps = [growing(choice, step / 200) for step in range(201)]
    assert steps[0] == Choice() and steps[-1] == choice and growing(choice, 1.5) == choice
    ratios = [step.ratio for step in steps]
    assert ratios == sorted(ratios) and max(ratios) == choice.ratio


def test_n_of_m_comes_down_one_by_one() -> None:
    found = dict.fromkeys(str(growing(parse_choice("1:4x8"), step / 500)) for step in range(501))
    assert list(found) == ["dense", "3:4x8", "2:4x8", "1:4x8"]
