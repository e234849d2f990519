"""What a network's layers would take on a device that is not there: estimated, layer by layer and choice by choice.

What was measured on such a device counts before what is estimated, wherever it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hwsparse.codegen import KERNEL_VERSION, refusal
from hwsparse.errors import InputError
from hwsparse.latency import (
    CostModel,
    Estimate,
    Measurement,
    Prediction,
    Records,
    Toolchain,
    Workload,
    layer_settings,
)
from hwsparse.latency.estimator import Estimator
from hwsparse.latency.records import RecordsFile
from hwsparse.model import Model
from hwsparse.pipeline.goal import Goal
from hwsparse.pipeline.thrift import describe
from hwsparse.plan import Choice, Plan
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


def require_no_device(goal: Goal, target: Target) -> None:
    """Refuses what only a device can tell.

    Raises:
        InputError: bytes are bounded, or layers are to be measured.
    """
    if goal.bounds.max_file_bytes is not None or goal.bounds.max_memory_bytes is not None:
        raise InputError(
            f"files and memory: nothing is weighed without a device; leave these bounds out for {target.name}, or name "
            "a board by --tracker HOST:PORT"
        )
    if goal.within is not None:
        raise InputError(f"within: nothing is measured without a device; leave it out for {target.name}")


def measured_on_boards(records: Path, target: Target) -> dict[Workload, Measurement]:
    """What is on record of a target's layers, of the board that was calibrated last, with the kernels that there are.

    Raises:
        MeasureError: the file cannot be read, or is no records file.
    """
    if not records.exists():
        return {}
    cache, toolchain = layer_settings(target).cache, Toolchain.of(target, KERNEL_VERSION)
    wanted = (target.name, target.threads, "measured", False, cache, toolchain)
    with RecordsFile(records) as file:
        found = [
            each
            for each in file.groups()
            if (each.target_name, each.threads, each.source, each.imported, each.cache, each.toolchain) == wanted
        ]
    if not found:
        return {}
    with Records(records, max(found, key=lambda group: group.last).device, toolchain) as kept:
        return kept.table(target.name, target.threads, cache)


def estimates(model: Model, plans: Mapping[str, Plan], target: Target, costs: CostModel) -> dict[str, Estimate]:
    """What whole networks should take, by the keys of their plans: their prunable layers, one after the other.

    Beside the dense network they are as uncertain as if all layers' gains were off the same way.

    Raises:
        MeasureError: the costs are of another target.
    """
    dense_s, found = costs.predict_model(model, Plan(model.digest)).latency_s, {}
    for label, plan in plans.items():
        low_s = high_s = dense_s
        for name, choice in plan.choices:
            dense, other = costs.compared(model.layer(name), choice, target)
            low_s += other.interval_s[0] - dense.interval_s[1]
            high_s += other.interval_s[1] - dense.interval_s[0]
        whole = costs.predict_model(model, plan)
        found[label] = Estimate(whole.latency_s, whole.interval_s, (low_s, high_s))
    return found
