"""The benchmark of types and zeros: what dominates what, and what is told of it."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import precision
from benchmarks.precision import Row, dominated, front_table
from hwsparse.plan import Plan, parse_choice
from tests.pipeline.test_finals import timed


def row(label: str, ms: float, quality: float, *texts: str, doubt: float = 0.01) -> Row:
    plan = Plan.of("0" * 64, {f"layer{number}": parse_choice(text) for number, text in enumerate(texts)})
    return Row(label, plan, timed(1e-3 * ms), np.array([quality, *np.linspace(quality - doubt, quality + doubt, 400)]))


DENSE, BYTES = row("dense", 10, 0.9), row("dense int8", 5, 0.9, "dense/int8", "dense/int8")
SPARSE = row("float32: search 1", 6, 0.85, "block4x1@0.7", "dense")
BOTH = row("float32 and int8: search 1", 4, 0.9, "block4x4@0.5/int8", "dense/int8", doubt=0.02)
FAST = row("float32 and int8: search 2", 2, 0.8, "block4x4@0.9/int8", "dense/int8")
ROWS = [DENSE, BYTES, SPARSE, BOTH, FAST, row("onnxruntime", 12, 0.9)]


def test_families_are_told_from_plans() -> None:
    assert [each.family for each in ROWS] == ["dense", "dense int8", "sparse", "sparse int8", "sparse int8", "dense"]
    assert row("mixed", 1, 0.9, "block4x1@0.7", "dense/int8").family == "sparse int8"


def test_who_is_faster_and_not_worse_dominates() -> None:
    assert BOTH.dominates(BYTES) and BOTH.dominates(SPARSE)
    assert not FAST.dominates(SPARSE)  # worse
    assert not BYTES.dominates(BOTH)  # slower
    assert not row("as fast", 4.01, 0.95, "block4x4@0.5/int8").dominates(BOTH)  # within the noise
    value, low, high = BOTH.gains_over(SPARSE)
    assert value == pytest.approx(5) and low == pytest.approx(4, abs=0.1) and high == pytest.approx(6, abs=0.1)


def test_figures_are_of_the_widest_lead() -> None:
    assert dominated(ROWS) == pytest.approx(
        {"over_dense_int8": 1.25, "over_sparse_float32_even": 1.5, "over_sparse_float32": 1.5}
    )
    even = row("float32: search 2", 8, 0.9, "unstructured@0.5")
    found = dominated([*ROWS, even])
    assert found["over_sparse_float32_even"] == pytest.approx(2)  # as good, and not better beyond doubt
    assert found["over_sparse_float32"] == pytest.approx(1.5)
    assert all(np.isnan(value) for value in dominated([DENSE, BYTES, SPARSE]).values())


def test_the_table_names_what_is_dominated() -> None:
    table = front_table("task", ROWS)
    labels, beaten = ([str(cell) for cell in table.columns[at].cells] for at in (0, -1))
    assert labels[0] == "onnxruntime" and labels[-1] == FAST.label
    told = dict(zip(labels, beaten, strict=True))
    assert told[BOTH.label] == "onnxruntime, dense, float32: search 1, dense int8"
    assert told[BYTES.label] == ""


def test_patterns_are_those_of_the_target_in_a_type() -> None:
    target = precision.load_target("x86-local")
    assert precision._patterns(target, ("float32",)) == ["unstructured", "block4x1", "block8x1"]
    assert precision._patterns(target, ("float32", "int8")) == list(precision.PATTERNS)


def test_its_options() -> None:
    parser = argparse.ArgumentParser()
    precision.options(parser)
    given = parser.parse_args(["--tasks", "resnet56"])
    assert (given.tasks, given.trials) == (["resnet56"], 60)
