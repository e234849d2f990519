"""Choices and plans: canonical texts, equal plans equal digests, hostile texts refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PatternError, PlanError
from hwsparse.pattern import NM, Dense
from hwsparse.plan import Choice, Layer, Plan, Window, parse_choice
from tests.test_pattern import PATTERNS

CHOICES = st.builds(
    lambda pattern, hundredths: Choice(
        pattern,
        0.0 if isinstance(pattern, Dense) else pattern.ratio if isinstance(pattern, NM) else hundredths / 100,
    ),
    PATTERNS,
    st.integers(0, 100),
)
PLANS = st.builds(Plan.of, st.just("m" * 64), st.dictionaries(st.text(max_size=8), CHOICES, max_size=5))


@given(CHOICES)
def test_text_stands_for_the_choice(choice: Choice) -> None:
    assert parse_choice(str(choice)) == choice


@given(PLANS)
def test_json_stands_for_the_plan(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_plan_or_refused(value: object) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(value))
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps({"model": "m", "choices": value if value != {} else None}))


def test_dense_choices_make_no_difference() -> None:
    assert Plan.of("m", {"a": Choice(), "b": parse_choice("2:4")}) == Plan.of("m", {"b": parse_choice("2:4")})
    assert Plan.of("m", {"b": parse_choice("2:4")}).choice("a").is_dense


@pytest.mark.parametrize(
    "text", ["2:4@0.5", "dense@0", "unstructured", "block4x1@x", "block4x1@1.5", "block4x1@nan", "@0.5"]
)
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        parse_choice(text)


def test_a_ratio_that_the_pattern_cannot_have_is_refused() -> None:
    with pytest.raises(PatternError, match=r"2:4 has ratio 0.5, not 0.6"):
        Choice(NM(2, 4), 0.6)
    with pytest.raises(PatternError, match="dense has ratio 0"):
        Choice(Dense(), 0.5)


def test_a_signature_tells_all_that_costs_depend_on_and_no_name() -> None:
    window = Window((2, 1), ((1, 0), (1, 1)), (1, 2), 2)
    layer = Layer("a", "Conv", "w", (8, 4, 3, 3), (1, 8, 9, 9), (1, 8, 4, 7), 1, window)
    other = Layer("b", "Conv", "v", (8, 4, 3, 3), (1, 8, 9, 9), (1, 8, 4, 7), 1, window)
    assert layer.signature == other.signature == "conv 1x8x9x9 w8x4x3x3 s2x1 p1,0_1,1 d1x2 g2 float32"
    assert (layer.outputs, layer.inputs, layer.groups) == (8, 36, 2)


def test_a_window_belongs_to_convolutions_only() -> None:
    with pytest.raises(PlanError, match="window"):
        Layer("a", "Conv", "w", (8, 4), (1, 4), (1, 8), 1)
    with pytest.raises(PlanError, match="at least 1"):
        Layer("a", "MatMul", "w", (8, 0), (1, 4), (1, 8), 1)
