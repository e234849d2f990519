"""What running a layer takes, in counts: how code generation tells a cost model what kernels do.

Knows neither kernels nor seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwsparse.errors import MeasureError


@dataclass(frozen=True, slots=True)
class Work:
    """Counts of one call of a layer.

    `family` names kernels whose time follows one law; `parts` are what takes time in proportion, as multiply-adds and
    bytes that are moved; `traits` tell layers apart in all else, as what fits into which cache. `place` says where a
    layer's choice lies among its others: what lies near behaves alike.
    """

    family: str
    parts: Mapping[str, float]
    traits: Mapping[str, float]
    place: tuple[float, ...]
    stored_bytes: float  # of weights, and of what tells where they belong

    def __post_init__(self) -> None:
        for name, count in (*self.parts.items(), *self.traits.items(), ("stored bytes", self.stored_bytes)):
            if not (math.isfinite(count) and count >= 0):
                raise MeasureError(f"{self.family}: {name} is {count}; a count is finite and not negative")
        if not all(map(math.isfinite, self.place)):
            raise MeasureError(f"{self.family}: {self.place} is no place")
