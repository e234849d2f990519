"""What is told of plans that are not built: latency and bytes, predicted.

And what no plan can reach, said before a search for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hwsparse.errors import InputError
from hwsparse.latency import CostModel, Footprint, Footprints, stored_bytes
from hwsparse.latency.cost_model import Prediction
from hwsparse.model import Model
from hwsparse.pipeline.thrift import describe
from hwsparse.plan import Plan
from hwsparse.report import words
from hwsparse.search import Option, SearchSpace
from hwsparse.search.bounds import Bounds
from hwsparse.sparsify import Evaluator
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Forecast:
    """What any plan of a model should take on a target."""

    model: Model
    target: Target
    costs: CostModel
    footprints: Footprints | None  # None: nothing was weighed

    def latency(self, plan: Plan) -> Prediction:
        """Of the whole network."""
        return self.costs.predict_model(self.model, plan)

    def stored(self, plan: Plan) -> float:
        """Bytes that prunable layers keep."""
        return stored_bytes(self.model, plan, self.costs.kernels(self.model, plan), describe(self.target))

    @property
    def size(self) -> Callable[[Plan], Footprint] | None:
        """What tells of a plan's files and memory; None: nothing does."""
        footprints = self.footprints
        return None if footprints is None else lambda plan: footprints.predict(self.stored(plan))

    def fastest(self, space: SearchSpace) -> Plan:
        """What takes each layer the least time."""
        return _plan(space, lambda layer, option: option.latency_s)

    def smallest(self, space: SearchSpace) -> Plan:
        """What keeps the least of each layer."""
        tell, layers = describe(self.target), {layer.name: layer for layer in self.model.layers}

        def kept(layer: str, option: Option) -> float:
            work = tell(layers[layer].signature, option.choice, None)
            return math.inf if work is None else work.stored_bytes

        return _plan(space, kept)


def _plan(space: SearchSpace, cost: Callable[[str, Option], float]) -> Plan:
    """Each layer as the option that costs least."""
    chosen = {layer.layer: min(layer.options, key=partial(cost, layer.layer)).choice for layer in space.free}
    return Plan.of(space.model_digest, chosen)


def require_possible(space: SearchSpace, told: Forecast, evaluator: Evaluator, bounds: Bounds) -> None:
    """Refuses bounds that no plan of the space keeps to, one by one.

    Raises:
        InputError: it says what the best plan reaches.
    """
    if bounds.max_latency_s is not None:
        fastest = told.latency(told.fastest(space))
        if fastest.interval_s[0] > bounds.max_latency_s:
            raise InputError(
                f"latency: no plan of {told.model.name} takes {words.milliseconds(bounds.max_latency_s)} on "
                f"{told.target.name}; the fastest of all, whatever it is worth, should take "
                f"{words.milliseconds(fastest.latency_s)}"
            )
    smallest = Footprint(0, None) if told.size is None else told.size(told.smallest(space))
    for what, least, limit in (
        ("files", smallest.file_bytes, bounds.max_file_bytes),
        ("memory", smallest.memory_bytes, bounds.max_memory_bytes),
    ):
        if limit is not None and least is not None and least > limit:
            raise InputError(
                f"{what}: no plan of {told.model.name} fits {words.byte_count(limit)}; the smallest of all, whatever "
                f"it is worth, should take {words.byte_count(least)}"
            )
    if bounds.min_quality is not None:
        dense = evaluator.evaluate({})
        if dense.value < bounds.min_quality:
            raise InputError(
                f"quality: the dense model itself is worth {words.quality(dense.metric, dense.value)} on the samples "
                f"that choose, less than the {words.quality(dense.metric, bounds.min_quality)} asked for"
            )
