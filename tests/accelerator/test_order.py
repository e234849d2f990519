"""The order of a pass's entries: as taking the next of every group in turn gives them, and back again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.order import Order


@given(st.lists(st.tuples(st.integers(ABSENT, 4), st.integers(1, 6)), max_size=12))
def test_every_group_gives_its_next_entry_in_turn(units: list[tuple[int, int]]) -> None:
    owners = np.array([owner for owner, _ in units], np.int32)
    counts = np.array([0 if owner == ABSENT else count for owner, count in units], np.int32)
    starts = np.cumsum(counts) - counts
    queues = [
        [int(start) + at for start, own, count in zip(starts, owners, counts, strict=True) if own == group
         for at in range(count)]
        for group in range(5)
    ]  # fmt: skip
    order = Order.of(owners, np.array([len(queue) for queue in queues]))
    expected = [queue.pop(0) for _ in range(counts.sum()) for queue in queues if queue]
    assert order.by_unit(counts)[order.beats()].tolist() == expected
    by_group = order.counts(counts[np.argsort(owners, kind="stable")][(owners == ABSENT).sum() :], len(units))
    assert (by_group == counts).all()
