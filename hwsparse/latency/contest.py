"""Which of several kernels runs a workload: all of them are timed once, then the fastest of them is used.

Knows kernels by name only, and not how they are built or timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

from hwsparse.latency.drift import slowness, usual_reference
from hwsparse.latency.measurement import Measurement
from hwsparse.latency.runner import Outcome
from hwsparse.latency.workload import Curve, Workload

# The kernel expected to be fastest gives way to one that is faster by more than this; less may be noise.
MARGIN = 0.02


@final
class Contest:
    """A contest for each curve of missing workloads that several kernels serve, unless records say who won before."""

    def __init__(
        self,
        kernels: Mapping[Workload, tuple[str, ...]],
        missing: Iterable[Workload],
        known: Mapping[Workload, Measurement],
    ) -> None:
        """Draws up the contests.

        Args:
            kernels: names of those that serve a workload, the one expected to be fastest first, the same at every
                ratio; of all that are missing.
            missing: workloads to be timed.
            known: what is on record, by kernels that there are.
        """
        self._kernels = kernels
        self._fastest = {workload.curve: taken.kernel for workload, taken in known.items() if taken.kernel}
        undecided: dict[Curve, list[Workload]] = {}
        for workload in missing:
            if len(kernels[workload]) > 1 and workload.curve not in self._fastest:
                undecided.setdefault(workload.curve, []).append(workload)
        ordered = (sorted(same, key=lambda workload: workload.choice.ratio) for same in undecided.values())
        # The workloads to time first: the middle ratio of each curve, for all others to profit from.
        self.leaders = frozenset(same[len(same) // 2] for same in ordered)

    def learn(self, known: Mapping[Workload, Measurement]) -> None:
        """What others have measured meanwhile decides contests too."""
        self._fastest |= {workload.curve: taken.kernel for workload, taken in known.items() if taken.kernel}

    def entrants(self, workload: Workload) -> tuple[str, ...]:
        """The kernels to time: the winner of the workload's curve, or all as long as there is none."""
        winner = self._fastest.get(workload.curve)
        return self._kernels[workload] if winner is None else (winner,)

    def decide(self, workload: Workload, outcomes: Sequence[Outcome]) -> Outcome:
        """The measurement of the fastest of the entrants; where none could be timed, why the first could not."""
        timed = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
        if not timed:
            return outcomes[0]
        usual_s = usual_reference(timed)
        times = [taken.quiet_s / slowness(taken, usual_s) for taken in timed]
        winner = timed[0] if times[0] <= min(times) * (1 + MARGIN) else timed[times.index(min(times))]
        if winner.kernel is not None:
            self._fastest[workload.curve] = winner.kernel
        return winner
