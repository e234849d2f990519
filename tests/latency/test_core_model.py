"""The core model against cycles counted by hand, and what more of anything can only do."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.core import Core
from hwsparse.latency.core_model import (
    DEPTHWISE,
    ELEMENTWISE,
    PRODUCT,
    WINOGRAD,
    Batch,
    Coefficients,
    Counts,
    Place,
    seconds,
)

# A core that takes on so much that only its pipes hold it up.
WIDE = Core("wide", 1e9, 64, False, 2.0, 4, 64.0, 1 << 20)
FREE = Coefficients(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
KNOWN = Coefficients(3.2, 8.5, 3.6, 1.2, 7e-6, 0.15)


def taken_s(counts: Counts, core: Core, known: Coefficients, threads: int = 1, bandwidth: float = 1e9) -> float:
    return float(seconds(Batch.of([(counts, Place(core, bandwidth, threads))]), known)[0])


def test_pipes_alone_set_the_pace() -> None:
    counts = Counts(PRODUCT, 2e9, 1e9, 0.0, 100.0)
    assert taken_s(counts, WIDE, FREE) == pytest.approx(1.0, rel=1e-4)
    assert taken_s(counts, replace(WIDE, clock_hz=2e9), FREE) == pytest.approx(0.5, rel=1e-4)


def test_few_sums_wait_for_each_other() -> None:
    # One sum, 4 cycles for each multiply-add, whatever the pipes.
    assert taken_s(Counts(PRODUCT, 1e9, 0.0, 0.0, 1.0), WIDE, FREE) == pytest.approx(4.0, rel=1e-4)


def test_a_narrow_core_is_held_up_by_what_comes_with_loads() -> None:
    core = replace(WIDE, issue_width=2, fma_pipes=64.0, fma_latency_cycles=1)
    known = replace(FREE, load_slots=3.0)
    # 4e9 multiply-adds and 2e9 loads of 3 instructions, two a cycle.
    assert taken_s(Counts(PRODUCT, 4e9, 2e9, 0.0, 100.0), core, known) == pytest.approx(5.0, rel=1e-3)


def test_in_order_all_adds_up() -> None:
    core = replace(WIDE, issue_width=2, in_order=True, fma_pipes=1.0)
    known = replace(FREE, load_slots=3.0, depthwise_slots=2.0, winograd_slots=4.0)
    for kind, cycles in ((PRODUCT, 1 + 0.5 * 3 / 2), (DEPTHWISE, 1 + 2 / 2), (WINOGRAD, 1 + 4 / 2), (ELEMENTWISE, 1)):
        assert taken_s(Counts(kind, 1e9, 0.5e9, 0.0, 100.0), core, known) == pytest.approx(cycles)


def test_memory_is_what_the_last_cache_does_not_hold() -> None:
    known = replace(FREE, memory=2.0)
    assert taken_s(Counts(PRODUCT, 0.0, 0.0, 2**20, 20.0), WIDE, known) == 0
    assert taken_s(Counts(PRODUCT, 0.0, 0.0, 2**20 + 1e9, 20.0), WIDE, known) == pytest.approx(2.0)


def test_threads_share_the_work_and_lose_some() -> None:
    counts, known = Counts(PRODUCT, 8e9, 0.0, 0.0, 100.0), replace(FREE, thread_loss=0.1, call_s=0.5)
    assert taken_s(counts, WIDE, known, threads=4) == pytest.approx(4 / 4 * 1.3 + 0.5 * 4, rel=1e-3)


def test_many_at_once_are_as_one_by_one() -> None:
    asked = [
        (Counts(kind, 1e6 * (kind + 1), 5e5, 1e7, 20.0), Place(core, 1e10, threads))
        for kind in (PRODUCT, DEPTHWISE, WINOGRAD, ELEMENTWISE)
        for core in (WIDE, replace(WIDE, in_order=True))
        for threads in (1, 4)
    ]
    together = seconds(Batch.of(asked), KNOWN)
    alone = [float(seconds(Batch.of([each]), KNOWN)[0]) for each in asked]
    assert together.tolist() == pytest.approx(alone)


@given(
    st.sampled_from([PRODUCT, DEPTHWISE, WINOGRAD, ELEMENTWISE]),
    st.floats(1, 1e9),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.floats(1, 64),
    st.sampled_from(["multiply_adds", "loads", "bytes"]),
    st.booleans(),
)
def test_more_to_do_never_takes_less(
    kind: int, fma: float, loads: float, moved: float, sums: float, more: str, in_order: bool
) -> None:
    counts = Counts(kind, fma, loads, moved, sums)
    core = replace(WIDE, issue_width=4, in_order=in_order, load_pipes=2.0)
    larger = replace(counts, **{more: 2 * getattr(counts, more) + 1})
    before, after = (taken_s(each, core, KNOWN) for each in (counts, larger))
    assert after >= before * (1 - 1e-12)
    assert all(math.isfinite(each) and each > 0 for each in (before, after))
    better = replace(core, issue_width=8, fma_pipes=4.0, load_pipes=4.0)
    assert taken_s(counts, better, KNOWN) <= before * (1 + 1e-12)


def test_coefficients_are_all_positive_in_what_is_tested() -> None:
    assert all(getattr(KNOWN, field.name) > 0 for field in fields(KNOWN))
