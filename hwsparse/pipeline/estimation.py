"""What a network's layers would take on a device that is not there: estimated, layer by layer and choice by choice.

What was measured on such a device counts before what is estimated, wherever it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwsparse.codegen import refusal
from hwsparse.latency import CostModel, Measurement, Prediction, Workload
from hwsparse.latency.estimator import Estimator
from hwsparse.model import Model
from hwsparse.pipeline.thrift import describe
from hwsparse.plan import Choice
from hwsparse.sparsify import applicable
from hwsparse.target import Target


def estimated_costs(target: Target, measured: Mapping[Workload, Measurement] | None = None) -> CostModel:
    """What any layer costs on a target: measured where it was, else estimated.

    Args:
        measured: on a device of the target, as records have it.

    Raises:
        UnsupportedError: the target's descriptor has no [core] to estimate from.
        MeasureError: measurements of another target are given.
    """
    estimator = Estimator.of(target, describe(target))
    if measured:
        return CostModel.fit(measured, estimator, pipelined=target.pipelined)
    return CostModel.unmeasured(target, estimator)


def cost_table(
    model: Model, choices: Sequence[Choice], target: Target, costs: CostModel
) -> dict[tuple[str, Choice], Prediction]:
    """Every layer of a model, by name, as the plain one and as each of some choices that it can be.

    Each says whether it is measured or predicted. What kernels do that nothing was published of is out of the domain.

    Raises:
        MeasureError: the costs are of another target.
    """
    found = {}
    for layer in model.layers:
        for choice in dict.fromkeys((Choice(), *choices)):
            if applicable(layer, choice.pattern) is None and refusal(layer, choice) is None:
                found[layer.name, choice] = costs.predict(Workload.of(layer, choice, target))
    return found
