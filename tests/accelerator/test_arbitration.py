"""Contended inputs, against the rule played cycle by cycle in plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.accelerator.arbitration import contended_cycles

COPY = st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=5)


def played(rows: list[list[int]], banks: int) -> int:
    at, cycle = [0] * len(rows), 0
    while any(place < len(row) for place, row in zip(at, rows, strict=True)):
        reads: dict[int, int] = {}
        for number, row in enumerate(rows):
            if at[number] < len(row):
                wanted = row[at[number]]
                if reads.setdefault(wanted % banks, wanted) == wanted:
                    at[number] += 1
        cycle += 1
    return cycle


@given(st.lists(COPY, min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_cycles_are_those_of_the_rule(copies: list[list[list[int]]], banks: int) -> None:
    streams = [[np.array(row, np.int64) for row in rows] for rows in copies]
    assert contended_cycles(streams, banks).tolist() == [played(rows, banks) for rows in copies]


def test_who_asks_for_the_same_waits_for_nobody() -> None:
    row = np.arange(20)
    assert contended_cycles([[row, row, row]], 1).tolist() == [20]


def test_one_bank_serves_one_input_a_cycle() -> None:
    assert contended_cycles([[np.array([0, 2]), np.array([1, 3])]], 1).tolist() == [4]
    assert contended_cycles([], 4).tolist() == []
    assert contended_cycles([[np.zeros(0, np.int64)]], 4).tolist() == [0]
