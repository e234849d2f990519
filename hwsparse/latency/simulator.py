"""A library timed on its simulated accelerator: cycles are counted, and what the host does is timed on this machine.

A call takes the cycles of its layers, one after the other, by the accelerator's clock, and all that its host does
beside: layers and operations that the accelerator does not have, and handing layers over. That is timed with nothing
in the accelerator's place. Where there is no host's part, as in a layer alone, every call takes exactly as long. Of a
pipeline, which has a sample in every stage, what is told is the pace: the host is one stage more.
"""

from __future__ import annotations

from hwsparse.codegen import Library
from hwsparse.codegen.fpga.calls import Accelerated
from hwsparse.latency.measurement import Source


class Simulated:
    """What a worker can check and time, of a library that was compiled for an accelerator."""

    source: Source = "simulated"

    def __init__(self, library: Library, accelerated: Accelerated, threads: int) -> None:
        """Counts what the layers take.

        Args:
            accelerated: the library's; `threads` those that its host runs with.

        Raises:
            UnsupportedError: they are more than a pipeline has room for.
        """
        self._library = library
        self._host = Library.load(library.directory, threads, host_alone=True) if accelerated.has_host else None
        self._together = max if accelerated.pipelined else sum
        layers, machine = accelerated.programs, accelerated.accelerator
        self._accelerator_s = accelerated.timed().interval_s(machine) if layers else 0.0

    def check(self) -> float | None:
        """As `Library.check`: what the accelerator computes is right to the bit."""
        return self._library.check()

    def time(self, repeats: int, number: int = 1, *, cold: bool = False) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        if self._host is None:  # all calls are alike
            return (self._accelerator_s,) * repeats
        hosts_s = self._host.time(repeats, number, cold=cold)
        return tuple(self._together((self._accelerator_s, host_s)) for host_s in hosts_s)
