"""How much of a network is not zero: its multiply-adds and its parameters.

Knows weights and ratios; what a kernel makes of them is another matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from hwsparse.model import Model
from hwsparse.plan import Plan


@dataclass(frozen=True, slots=True)
class Size:
    """What is left where there are zeros; multiply-adds are those of the prunable layers."""

    macs: int
    parameters: int


class Sizes:
    """Sizes of one model under different weights."""

    def __init__(self, model: Model) -> None:
        self._model = model
        stored = (numpy_helper.to_array(item) for item in onnx.load_from_string(model.proto).graph.initializer)
        total = sum(int(np.count_nonzero(array)) for array in stored if array.dtype.kind == "f")
        self._dense = {layer.name: int(np.count_nonzero(model.weight(layer.name))) for layer in model.layers}
        self._others = total - sum(self._dense.values())

    def of_weights(self, weights: Mapping[str, np.ndarray]) -> Size:
        """With these canonical weights by layer name; other layers keep the model's own."""
        return self._size({name: int(np.count_nonzero(weight)) for name, weight in weights.items()})

    def of_plan(self, plan: Plan) -> Size:
        """As the plan's ratios say, before anything is pruned."""
        kept = {name: 1 - choice.ratio for name, choice in plan.choices}
        return self._size({name: round(share * self._dense[name]) for name, share in kept.items()})

    def _size(self, pruned: Mapping[str, int]) -> Size:
        left = self._dense | dict(pruned)
        return Size(
            sum(round(layer.macs * left[layer.name] / (layer.outputs * layer.inputs)) for layer in self._model.layers),
            self._others + sum(left.values()),
        )
