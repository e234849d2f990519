"""How much of a network is not zero: its multiply-adds and its parameters.

Knows weights and ratios; what a kernel makes of them is another matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.quantise import split_weights


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
        """With these canonical weights by layer name, and constants by theirs; the rest is the model's own."""
        plain = split_weights(weights).plain
        left = {name: int(np.count_nonzero(values)) for name, values in plain.items()}
        constants = [name for name in left if name not in self._dense]
        more = sum(left.pop(name) - int(np.count_nonzero(self._model.constant(name))) for name in constants)
        size = self._size(left)
        return replace(size, parameters=size.parameters + more)

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
