"""Which of several kernels runs a workload: all of them are timed once, then the fastest of them is used.

Knows kernels by name only, and not how they are built or timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

from hwsparse.latency.measurement import Measurement
from hwsparse.latency.runner import Outcome
from hwsparse.latency.workload import Workload

# The kernel expected to be fastest gives way to one that is faster by more than this; less may be noise.
MARGIN = 0.02

# A layer's signature, and the kernels that serve it under some of its choices: under all that differ in ratio alone.
Form = tuple[str, tuple[str, ...]]


@final
class Contest:
    """A contest for each form of missing workloads that several kernels serve, unless records say who won before."""

    def __init__(
        self,
        kernels: Mapping[Workload, tuple[str, ...]],
        missing: Iterable[Workload],
        known: Mapping[Workload, Measurement],
    ) -> None:
        """Draws up the contests.

        Args:
            kernels: names of those that serve a workload, the one expected to be fastest first; of all that are
                missing, and of those on record for the same layers.
            missing: workloads to be timed.
            known: what is on record.
        """
        self._forms: dict[Workload, Form] = {
            workload: (workload.signature, names) for workload, names in kernels.items()
        }
        self._fastest: dict[Form, str] = {}
        for workload, taken in known.items():
            if workload in kernels and taken.kernel in kernels[workload]:
                self._fastest[self._forms[workload]] = taken.kernel
        undecided: dict[Form, list[Workload]] = {}
        for workload in missing:
            if len(kernels[workload]) > 1 and self._forms[workload] not in self._fastest:
                undecided.setdefault(self._forms[workload], []).append(workload)
        ordered = (sorted(same, key=lambda workload: workload.choice.ratio) for same in undecided.values())
        # The workloads that kernels compete on: the middle ratio of each form.
        self.leaders = frozenset(same[len(same) // 2] for same in ordered)

    def entrants(self, workload: Workload) -> tuple[str, ...]:
        """The kernels to time: all on a leader, on others the winner, or the one expected to win if nobody did."""
        form = self._forms[workload]
        return form[1] if workload in self.leaders else (self._fastest.get(form, form[1][0]),)

    def decide(self, workload: Workload, outcomes: Sequence[Outcome]) -> Outcome:
        """The measurement of the fastest of the entrants; where none could be timed, why the first could not."""
        timed = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
        if not timed:
            return outcomes[0]
        winner = min(timed, key=lambda taken: taken.median_s)
        if timed[0].median_s <= winner.median_s * (1 + MARGIN):
            winner = timed[0]
        if winner.kernel is not None:
            self._fastest[self._forms[workload]] = winner.kernel
        return winner
