"""Whether other processes had the CPU while something was timed, and how that is said.

A busy neighbour shows in two ways: the process that times has less of its own CPU, or the other CPUs, with which it
shares memory and caches, are at work. Knows nothing of what is timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

# A process that has less of its CPU than this shares it with others.
FULL_SHARE = 0.95
# A shorter time tells nothing: the system counts in hundredths of a second.
LEAST_WATCHED_S = 0.5


@dataclass(frozen=True, slots=True)
class _Reading:
    """Seconds since some moment: on the clock, at work on the CPUs that are watched, and of that for ourselves."""

    clock_s: float
    busy_s: float
    own_s: float


class Bystanders:
    """What others have of some CPUs while we time something there; Linux tells, and a hypervisor whose guest it is."""

    def __init__(self, cpus: Collection[int], own: Collection[int], proc: Path = Path("/proc")) -> None:
        """Begins to watch.

        Args:
            cpus: numbers of the CPUs.
            own: numbers of our processes.
        """
        self._cpus, self._own, self._proc = cpus, own, proc
        self._began = self._read()

    def left_to_us(self) -> float:
        """The share of all these CPUs that nobody else took since then; 1 where nothing tells, or it is too short."""
        now, began = self._read(), self._began
        if now is None or began is None or (took := now.clock_s - began.clock_s) < LEAST_WATCHED_S:
            return 1.0
        others = (now.busy_s - began.busy_s) - (now.own_s - began.own_s)
        return min(1.0, max(0.0, 1 - others / (took * max(1, len(self._cpus)))))

    def _read(self) -> _Reading | None:
        try:
            each_s = 1 / os.sysconf("SC_CLK_TCK")
            lines = (line.split() for line in (self._proc / "stat").read_text().splitlines())
            counts = {name: values for name, *values in lines if name.startswith("cpu")}
            # user, nice, system; of the others interrupts, and what the hypervisor gave to other guests.
            busy = sum(int(counts[f"cpu{cpu}"][place]) for cpu in self._cpus for place in (0, 1, 2, 5, 6, 7))
            own = sum(sum(map(int, self._stat(pid)[11:13])) for pid in self._own)
        except (OSError, KeyError, ValueError, IndexError):  # another system, or a process that has ended
            return None
        return _Reading(time.monotonic(), busy * each_s, own * each_s)

    def _stat(self, pid: int) -> list[str]:
        """What is told of a process, from its state on: its name, which comes before, may hold anything."""
        return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()


def taken_by_others(share: float) -> str:
    """As in `other processes took 12% of the CPU`; empty where they took next to nothing."""
    return f"other processes took {1 - share:.0%} of the CPU" if share < FULL_SHARE else ""


def load_note(share: float) -> str:
    """A sentence about figures, of which one had so little of its CPU; empty where nothing is worth saying."""
    taken = taken_by_others(share)
    return f"While some of it was timed, {taken}: figures are surer without them." if taken else ""
