"""Bytes of a network, of its files and of memory while it runs: predicted from those that its layers' kernels keep.

What else there is, as code, weights of no prunable layer and activations, is fitted to networks that were weighed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsparse.latency.learned import Describe
from hwsparse.latency.network import Residual, fit_residual
from hwsparse.plan import Plan

if TYPE_CHECKING:
    from hwsparse.model import Model


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of what is deployed, and the most memory that it takes while it runs, beyond the runtime's own."""

    file_bytes: float
    memory_bytes: float | None  # None: it could not be measured


@dataclass(frozen=True, slots=True)
class Footprints:
    """What any plan of one network takes; made by `fit`."""

    files: Residual
    memory: Residual | None

    @classmethod
    def fit(cls, weighed: Iterable[tuple[float, Footprint]]) -> Footprints:
        """From what plans' layers store (`stored_bytes`), and what the plans took.

        Raises:
            MeasureError: nothing was weighed.
        """
        pairs = list(weighed)
        memory = [(stored, each.memory_bytes) for stored, each in pairs if each.memory_bytes]
        files = fit_residual([(stored, each.file_bytes) for stored, each in pairs])
        return cls(files, fit_residual(memory) if memory else None)

    def predict(self, stored: float) -> Footprint:
        """What a plan takes whose layers store so many bytes."""
        return Footprint(self.files.apply(stored), None if self.memory is None else self.memory.apply(stored))


def stored_bytes(model: Model, plan: Plan, kernels: Mapping[str, str], describe: Describe) -> float:
    """Bytes of weights that a plan's prunable layers keep.

    Args:
        kernels: by layer name; where a layer has none, the expected one is meant.
    """
    asked = ((layer, plan.choice(layer.name), kernels.get(layer.name)) for layer in model.layers)
    works = (describe(layer.signature, choice, kernel) for layer, choice, kernel in asked)
    return sum(work.stored_bytes for work in works if work is not None)
