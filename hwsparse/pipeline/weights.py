"""Pruned weights of one job: made once for each layer and choice, the same wherever a plan needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.pipeline.bench import Steps
from hwsparse.plan import Choice, Layer, Plan
from hwsparse.sparsify import LayerStatistics, apply_plan, collect_statistics, reconstruct
from hwsparse.target import Target

STATISTICS_SAMPLES = 128
# Past this much, what was made is made again: a large network times forty choices does not fit in memory.
MAX_KEPT_BYTES = 2 << 30


class PrunedWeights:
    """Weights of any plan of one model, fitted on calibration data where there are statistics."""

    def __init__(self, model: Model, statistics: Mapping[str, LayerStatistics]) -> None:
        self._model, self._statistics = model, statistics
        self._kept: dict[tuple[str, Choice], np.ndarray] = {}
        self._kept_bytes = 0

    def __call__(self, plan: Plan) -> dict[str, np.ndarray]:
        """Canonical pruned weights by layer name.

        Raises:
            PlanError: the plan does not belong to the model.
        """
        return {name: self._layer(name, choice) for name, choice in plan.choices}

    def _layer(self, name: str, choice: Choice) -> np.ndarray:
        if (name, choice) not in self._kept:
            alone = Plan.of(self._model.digest, {name: choice})
            weight = apply_plan(self._model, alone, reconstruct, self._statistics)[name]
            if self._kept_bytes + weight.nbytes > MAX_KEPT_BYTES:
                self._kept, self._kept_bytes = {}, 0
            self._kept[name, choice] = weight
            self._kept_bytes += weight.nbytes
        return self._kept[name, choice]


def layer_statistics(
    model: Model, calibration: Dataset, layers: Sequence[Layer], target: Target, seed: int, progress: Steps
) -> dict[str, LayerStatistics]:
    """Statistics of the layers' inputs on calibration data; equal data and seed give equal ones."""
    if not layers:
        return {}
    return collect_statistics(
        model,
        calibration,
        layers,
        max_samples=STATISTICS_SAMPLES,
        threads=target.cores,
        seed=seed,
        progress=progress,
    )
