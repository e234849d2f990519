"""Whether other processes had the CPU while something was timed, and how that is said.

Knows no processes: it is told what share of its CPU the one that timed had.
"""

from __future__ import annotations

# A process that has less of its CPU than this shares it with others.
FULL_SHARE = 0.95


def taken_by_others(share: float) -> str:
    """As in `other processes took 12% of the CPU`; empty where they took next to nothing."""
    return f"other processes took {1 - share:.0%} of the CPU" if share < FULL_SHARE else ""


def load_note(share: float) -> str:
    """A sentence about figures, of which one had so little of its CPU; empty where nothing is worth saying."""
    taken = taken_by_others(share)
    return f"While some of it was timed, {taken}: figures are surer without them." if taken else ""
