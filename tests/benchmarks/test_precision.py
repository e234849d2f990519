"""The benchmark of types and zeros: what dominates what, and what is told of it."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import precision
from benchmarks.precision import Row, dominated, dominations, front_table
from hwsparse.errors import InputError
from hwsparse.plan import Plan, parse_choice
from tests.pipeline.test_finals import timed


def row(label: str, ms: float, quality: float, *texts: str, doubt: float = 0.01) -> Row:
    plan = Plan.of("0" * 64, {f"layer{number}": parse_choice(text) for number, text in enumerate(texts)})
    return Row(label, plan, timed(1e-3 * ms), np.array([quality, *np.linspace(quality - doubt, quality + doubt, 400)]))


DENSE, BYTES = row("dense", 10, 0.9), row("dense int8", 5, 0.9, "dense/int8", "dense/int8")
SPARSE = row("float32: search 1", 6, 0.85, "block4x1@0.7", "dense")
BOTH = row("int8 too: search 1", 4, 0.9, "block4x4@0.5/int8", "dense/int8", doubt=0.02)
FAST = row("int8 too: search 2", 2, 0.8, "block4x4@0.9/int8", "dense/int8")
ROWS = [DENSE, BYTES, SPARSE, BOTH, FAST, row("onnxruntime", 12, 0.9)]


def test_families_are_told_from_plans() -> None:
    assert [each.family for each in ROWS] == ["dense", "dense int8", "sparse", "sparse int8", "sparse int8", "dense"]
    assert row("mixed", 1, 0.9, "block4x1@0.7", "dense/int8").family == "sparse int8"


def test_who_is_faster_and_not_worse_dominates() -> None:
    assert BOTH.standing(BYTES) == "yes" and BOTH.standing(SPARSE) == "surely"
    assert row("worse within doubt", 3, 0.895, "block4x4@0.7/int8", doubt=0.03).standing(BYTES) == "perhaps"
    assert FAST.standing(SPARSE) == "no"  # worse
    assert BYTES.standing(BOTH) == "no"  # slower
    assert row("as fast", 4.01, 0.95, "block4x4@0.5/int8").standing(BOTH) == "no"  # within the noise
    value, low, high = BOTH.gains_over(SPARSE)
    assert value == pytest.approx(5) and low == pytest.approx(4, abs=0.1) and high == pytest.approx(6, abs=0.1)


def test_figures_are_of_the_widest_lead() -> None:
    found = dominated(ROWS)
    assert found["over_dense_int8"] == found["over_dense_int8_perhaps"] == pytest.approx(1.25)
    assert found["over_sparse_float32"] == found["over_sparse_float32_surely"] == pytest.approx(1.5)
    even, near = (
        row("float32: search 2", 8, 0.9, "unstructured@0.5"),
        row("near", 2.5, 0.895, "block4x4@0.7/int8", doubt=0.03),
    )
    found = dominated([*ROWS, even, near])
    assert found["over_sparse_float32"] == pytest.approx(2.4)  # of SPARSE by near; as good as even is BOTH alone
    assert found["over_sparse_float32_surely"] == pytest.approx(2.4)
    assert (found["over_dense_int8"], found["over_dense_int8_perhaps"]) == pytest.approx((1.25, 2))
    assert all(np.isnan(value) for value in dominated([DENSE, BYTES, SPARSE]).values())


def test_what_is_dominated_is_told() -> None:
    assert list(dominations(ROWS)) == [
        f"{BOTH.label} is faster, and better: {SPARSE.label} 1.50x",
        f"{BOTH.label} is faster, and as good: dense int8 1.25x",
    ]
    table = front_table("task", ROWS)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert columns[0] == ["onnxruntime", "dense", SPARSE.label, "dense int8", BOTH.label, FAST.label]
    assert columns[3][-1] == "6.00" and columns[4][-1].startswith("10.0 (")


def test_patterns_are_those_of_the_target_in_a_type() -> None:
    target = precision.load_target("x86-local")
    asked = precision.PATTERNS
    assert precision._patterns(target, asked, ("float32",)) == ["unstructured", "block4x1", "block8x1"]
    assert precision._patterns(target, asked, ("float32", "int8")) == list(asked)
    with pytest.raises(InputError, match="target x86-local has none of block4x4 in float32"):
        precision._patterns(target, ("block4x4",), ("float32",))
    with pytest.raises(InputError, match=r"has no pattern blok4x1; it has .*block4x1"):
        precision._patterns(target, ("block4x1", "blok4x1"), ("float32",))


def test_its_options() -> None:
    parser = argparse.ArgumentParser()
    precision.options(parser)
    given = parser.parse_args(["--tasks", "resnet56"])
    assert (given.tasks, given.trials) == (["resnet56"], 60)
