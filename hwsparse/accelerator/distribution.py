"""Which rows do which channels.

A unit is one channel, or as many as share an index; a group of rows does one unit after the other. The longest job
first to the least loaded: R. Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17(2), 1969.
"""

from __future__ import annotations

import heapq

import numpy as np

ABSENT = -1


def distribute(loads: np.ndarray, groups: int, room: int, how: str) -> np.ndarray:
    """The group of every unit; units without weights have none.

    Args:
        loads: (units,) entries of each over all inputs, 0 for those without weights.
        room: units that a group has accumulators for; there is room for all.
        how: "static", in turn, or "balanced", by their loads.
    """
    found = np.full(len(loads), ABSENT, np.int32)
    present = np.flatnonzero(loads)
    if how == "static":
        found[present] = np.arange(len(present)) % groups
        return found
    heap = [(0, group) for group in range(groups)]
    counts = [0] * groups
    for unit in present[np.argsort(-loads[present], kind="stable")]:
        load, group = heapq.heappop(heap)
        found[unit] = group
        counts[group] += 1
        if counts[group] < room:
            heapq.heappush(heap, (load + int(loads[unit]), group))
    return found
