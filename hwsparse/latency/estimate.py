"""What a whole network should take where none was timed: never a measurement, and told from one by its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsparse.latency.measurement import Measurement


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one inference as a cost model tells them.

    Two networks' estimates are off by much the same: `beside_s` is where the time lies if the dense network takes
    exactly what is estimated of it. Of the dense network itself both ends are that.
    """

    median_s: float
    interval_s: tuple[float, float]  # 90 %, of all that is not known
    beside_s: tuple[float, float]

    @property
    def source(self) -> Literal["predicted"]:
        return "predicted"


Latency = Measurement | Estimate
