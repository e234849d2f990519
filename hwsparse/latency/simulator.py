"""A library timed on its simulated accelerator: cycles are counted, and what the host does is timed on this machine.

A call takes the cycles of its layers, one after the other, by the accelerator's clock, and all that its host does
beside: layers and operations that the accelerator does not have, and handing layers over. While that is timed the
accelerator computes nothing, and is counted for nothing. Where there is no host's part, as in a layer alone, every
call takes exactly as long. Of a pipeline, which has a sample in every stage, what is told is the pace: the host is one
stage more.
"""

from __future__ import annotations

from hwsparse.codegen import Library
from hwsparse.codegen.fpga.calls import CLOCK, Accelerated
from hwsparse.latency.measurement import Source


class Simulated:
    """What a worker can check and time, of a library that was compiled for an accelerator."""

    source: Source = "simulated"

    def __init__(self, library: Library, accelerated: Accelerated) -> None:
        """Counts what the layers take.

        Args:
            accelerated: the library's.

        Raises:
            UnsupportedError: they are more than a pipeline has room for.
        """
        self._library, self._has_host = library, accelerated.has_host
        self._together = max if accelerated.pipelined else sum
        self._layers = len(accelerated.programs)
        self._accelerator_s = accelerated.timed().interval_s(accelerated.accelerator) if self._layers else 0.0

    def check(self) -> float | None:
        """As `Library.check`: what the accelerator computes is right to the bit."""
        return self._library.check()

    def time(self, repeats: int, number: int = 1, *, cold: bool = False) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        if not self._has_host:
            return (self._accelerator_s,) * repeats
        return tuple(self._together((self._accelerator_s, self._host_s(number, cold))) for _ in range(repeats))

    def _host_s(self, number: int, cold: bool) -> float:
        with CLOCK.host_alone() as taken_s:
            (whole_s,) = self._library.time(1, number, cold=cold)
        # Before what is timed TVM makes calls that are not.
        timed = taken_s[len(taken_s) - number * self._layers :]
        return whole_s - sum(timed) / number
