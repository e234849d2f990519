from __future__ import annotations

import pytest
from hypothesis import given

from hwsparse.errors import MeasureError
from hwsparse.latency import Workload
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, choices, conv, matmul, workloads


def test_the_layers_name_is_no_part_of_it() -> None:
    choice = Choice(Block(4), 0.9)
    assert Workload.of(matmul("a"), choice, TARGET) == Workload.of(matmul("b"), choice, TARGET)


def test_whatever_decides_the_cost_is_part_of_the_key() -> None:
    choice = Choice(Block(4), 0.9)
    signature = matmul().signature
    different = {
        Workload(signature, choice, "a", 1).key,
        Workload(conv().signature, choice, "a", 1).key,
        Workload(signature, Choice(Block(2), 0.9), "a", 1).key,
        Workload(signature, Choice(Block(4), 0.8), "a", 1).key,
        Workload(signature, Choice(Block(4), 0.9, "int8"), "a", 1).key,
        Workload(signature, choice, "b", 1).key,
        Workload(signature, choice, "a", 2).key,
    }
    assert len(different) == 7


@given(workloads, workloads)
def test_equal_keys_are_equal_workloads(one: Workload, other: Workload) -> None:
    assert (one.key == other.key) == (one == other)


@given(choices)
def test_a_ratio_is_what_its_text_says(choice: Choice) -> None:
    once = Workload("s", choice, "t", 1)
    assert str(once.choice) == str(choice)
    assert Workload("s", once.choice, "t", 1) == once


def test_a_ratio_with_rounding_error_is_the_same_workload() -> None:
    assert Workload("s", Choice(Block(4), 0.1 * 3), "t", 1) == Workload("s", Choice(Block(4), 0.3), "t", 1)


def test_no_threads_is_an_error() -> None:
    with pytest.raises(MeasureError, match="threads is 0"):
        Workload("s", Choice(), "t", 0)
