"""Choices and plans: canonical texts, equal plans equal digests, hostile texts refused."""

from __future__ import annotations

import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PatternError, PlanError
from hwsparse.pattern import NM, Block, Dense, Pattern
from hwsparse.plan import Choice, Layer, Plan, Window, parse_choice, parse_signature
from tests.test_pattern import PATTERNS

# The text of a ratio has six digits: one with a rounding error is written as the ratio that was meant.
CHOICES = st.builds(
    lambda pattern, millionths: Choice(
        pattern,
        0.0 if isinstance(pattern, Dense) else pattern.ratio if isinstance(pattern, NM) else millionths / 10**6,
    ),
    PATTERNS,
    st.integers(0, 10**6),
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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model":' + '{"a":' * 50_000])
def test_json_of_any_depth_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(text)


@given(PATTERNS, st.floats(0, 1))
def test_the_text_of_any_ratio_means_it_to_six_digits(pattern: Pattern, ratio: float) -> None:
    if isinstance(pattern, Dense | NM):
        return
    choice = parse_choice(str(Choice(pattern, ratio)))
    assert choice.ratio == pytest.approx(ratio, rel=1e-5)
    assert parse_choice(str(choice)) == choice


@given(PATTERNS, st.floats(0, 1), st.floats(0, 1))
def test_choices_are_equal_exactly_when_their_texts_are(pattern: Pattern, first: float, second: float) -> None:
    if isinstance(pattern, Dense | NM):
        return
    one, other = Choice(pattern, first), Choice(pattern, second)
    assert (one == other) == (str(one) == str(other))
    plan = Plan.of("m", {"a": one})
    assert Plan.from_json(plan.to_json()) == plan
    assert (plan == Plan.of("m", {"a": other})) == (plan.digest == Plan.of("m", {"a": other}).digest)


def test_a_ratio_is_what_its_text_says() -> None:
    assert Choice(Block(4), 1 / 3).ratio == 0.333333
    assert str(Choice(Block(4), -0.0)) == "block4x1@0"  # equal to 0.0, and so must its text be
    assert Choice(NM(1, 3), 0.6666667) == parse_choice("1:3")
    assert type(Choice(Block(4), np.float64(0.5)).ratio) is float


@given(st.dictionaries(st.text(max_size=8), CHOICES, max_size=5), st.randoms())
def test_the_order_of_choices_makes_no_difference(choices: dict[str, Choice], random: Random) -> None:
    items = list(choices.items())
    random.shuffle(items)
    plan, other = Plan.of("m", choices), Plan.of("m", dict(items))
    assert plan == other and plan.digest == other.digest
    assert [name for name, _ in plan.choices] == sorted(name for name, choice in items if choice != Choice())
    assert plan.digest != Plan.of("n", choices).digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "not a plan"),
        ("[]", "exactly the keys model and choices"),
        ('{"model": "m"}', "exactly the keys model and choices"),
        ('{"model": 1, "choices": {}}', "exactly the keys model and choices"),
        ('{"model": "m", "choices": {"a": "2:5x"}}', "'2:5x' is not a pattern"),
        ('{"model": "m", "choices": {"a": ["2:4"]}}', "not a plan"),
        ('{"model": "m", "choices": {"a": "2:4", "a": "1:4"}}', "a key is there twice"),
        ('{"model": "m", "model": "n", "choices": {}}', "a key is there twice"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan.from_json(text)


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=12) | st.none() | st.integers(), max_size=3))
def test_any_choices_are_a_plan_or_refused(choices: dict[str, object]) -> None:
    try:
        plan = Plan.from_json(json.dumps({"model": "m", "choices": choices}))
    except PlanError:
        return
    assert Plan.from_json(plan.to_json()) == plan


def test_choices_out_of_order_or_repeated_are_refused() -> None:
    a, b = ("a", parse_choice("2:4")), ("b", parse_choice("2:4"))
    for choices in ((b, a), (a, a)):
        with pytest.raises(PlanError, match=r"build it with Plan\.of"):
            Plan("m", choices)


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


LAYERS = st.builds(
    lambda batch, ins, outs, groups, axes, sizes, kernel, stride, pad, dilation: Layer(
        "", "Conv", "", (outs * groups, ins, *(kernel,) * axes), (batch, ins * groups, *sizes[:axes]),
        (batch, outs * groups, *((n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n in sizes[:axes])),
        batch * outs * groups * ins * kernel**axes
        * math.prod((n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n in sizes[:axes]),
        Window((stride,) * axes, ((pad, pad),) * axes, (dilation,) * axes, groups),
    ),
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3),
    st.tuples(*[st.integers(9, 20)] * 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
) | st.builds(
    lambda tokens, ins, outs: Layer(
        "", "MatMul", "", (outs, ins), (*tokens, ins), (*tokens, outs), math.prod(tokens) * ins * outs
    ),
    st.lists(st.integers(1, 50), min_size=1, max_size=3), st.integers(1, 99), st.integers(1, 99),
)  # fmt: skip


@given(LAYERS)
def test_a_signature_stands_for_all_that_costs_depend_on(layer: Layer) -> None:
    assert parse_signature(layer.signature) == layer


@pytest.mark.parametrize(
    "text",
    [
        "", "conv", "matmul 1x8 w4x9 float32", "matmul 1x8 w4 float32", "matmul -1x8 w4x8 float32",
        "matmul 0x8 w4x8 float32",
        "conv 1x8x9x9 w8x4x3x3 s1x1 p1,1_1,1 d1x1 g1 float32", "conv 1x8x9x9 w8x8x3x3 s1 p1,1_1,1 d1x1 g1 float32",
        "conv 1x8x9x9 w8x8x3x3 s0x1 p1,1_1,1 d1x1 g1 float32", "conv 1x8x9x9 w8x8x12x12 s1x1 p0,0_0,0 d1x1 g1 float32",
        "conv 1x8 w8x8 s1 p1,1 d1 g1 float32", "conv 1x8x9x9 w8x8x3x3 s1x1 p1,1_1,1 d1x1 g1 float32; rm",
        f"matmul 1x{'9' * 11} w4x{'9' * 11} float32", f"matmul 1x8 w{'9' * 5000}x8 float32",
        "matmul 65536x32768 w4x32768 float32", "matmul 65536x8 w32768x8 float32",
        "conv 1x8x1x1 w8x8x3x3 s1x1 p99999,1_1,99999 d1x1 g1 float32",
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_signature(text)


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
