"""Times libraries on a simulated accelerator: its cycles are counted, and what its host does is timed on this machine.

A call takes the cycles of its layers, one after the other, by the accelerator's clock, and all that its host does
beside: layers and operations that the accelerator does not have, and handing layers over. While that is timed the
accelerator computes nothing, and is counted for nothing. Where there is no host's part, as in a layer alone, every
call takes exactly as long.
"""

from __future__ import annotations

from pathlib import Path

from hwsparse.accelerator import time_network
from hwsparse.codegen import Library
from hwsparse.codegen.fpga.calls import CLOCK

LOADER = "hwsparse.latency.simulator:Simulated"


class Simulated:
    """A library on the accelerator that it was compiled for; `load` is what a worker calls."""

    def __init__(self, directory: Path, threads: int) -> None:
        """Loads it, and counts what its layers take; use `load`."""
        self._library = Library.load(directory, threads)
        self._accelerator_s, self._layers = 0.0, 0
        accelerated = self._library.accelerated
        if accelerated is not None:
            run = time_network(accelerated.accelerator, list(accelerated.programs.values()))
            self._accelerator_s, self._layers = run.latency_s(accelerated.accelerator), len(run.layers)
        self._has_host = accelerated is None or accelerated.has_host

    @classmethod
    def load(cls, directory: Path, threads: int) -> Simulated:
        """Loads a library.

        Raises:
            ArtifactError: as `Library.load`.
        """
        return cls(directory, threads)

    def check(self) -> float | None:
        """As `Library.check`: what the accelerator computes is right to the bit."""
        return self._library.check()

    def time(self, repeats: int, number: int = 1, *, cold: bool = False) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        if not self._has_host:
            return (self._accelerator_s,) * repeats
        return tuple(self._accelerator_s + self._host_s(number, cold) for _ in range(repeats))

    def _host_s(self, number: int, cold: bool) -> float:
        with CLOCK.alone():
            (whole_s,) = self._library.time(1, number, cold=cold)
        return whole_s - CLOCK.spent_s / max(CLOCK.calls, 1) * self._layers
