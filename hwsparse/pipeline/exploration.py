"""What a search must know before its first trial: what layers may become, and what that takes, whole networks too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hwsparse import compiler
from hwsparse.artifact.manifest import NOISY
from hwsparse.latency import CostModel, Footprints, KnownNetwork, Measurement, stored_bytes
from hwsparse.latency.load import taken_by_others
from hwsparse.model import Model
from hwsparse.pipeline.bench import ROUGH_PATIENCE_S, Bench
from hwsparse.pipeline.building import NetworkOrder
from hwsparse.pipeline.choices import layer_choices
from hwsparse.pipeline.outcome import Weights
from hwsparse.pipeline.survey import OnStage, estimated_offers, survey, with_errors
from hwsparse.pipeline.thrift import describe, measure_plans
from hwsparse.plan import Choice, Plan
from hwsparse.report.choices import LayerChoices
from hwsparse.search import SearchSpace, SettledChoices, build_space, surrogate_plans
from hwsparse.sparsify import LayerDatabase
from hwsparse.target import Target

# What is shown as the baseline that needs no search: the same choice for every layer that can have it.
UNIFORM = (
    "unstructured@0.5", "unstructured@0.7", "unstructured@0.9", "block4x1@0.5", "block4x1@0.7", "2:4", "dense/int8",
    "block4x4@0.5/int8", "block4x4@0.7/int8", "dense/bfloat16", "block4x2@0.5/bfloat16", "block4x2@0.7/bfloat16",
    "dense/float16", "block4x1@0.5/float16", "block4x1@0.7/float16",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explored:
    """What is known of a model on a device before the search: what it may choose, and what that takes."""

    space: SearchSpace
    costs: CostModel
    footprints: Footprints | None  # None: nothing was weighed
    choices: LayerChoices  # what was looked at, chosen from or not


def explore(
    model: Model,
    database: LayerDatabase,
    choices: Sequence[Choice],
    settled: SettledChoices | None,
    bench: Bench,
    inputs: Mapping[str, np.ndarray],
    scratch: Path,
    within: float | None,
    on_stage: OnStage,
) -> Explored:
    """Measures and prunes layers, then measures whole networks under a few plans, for what lies between layers.

    Args:
        database: receives every layer as every choice that pays, and as all that are settled.
        choices: what layers may become; `settled` those that a study has begun with.
        inputs: a sample, to check what is built with.
        scratch: a directory for what is built.
        within: how surely layers' times may be predicted, relative, instead of being measured.

    Raises:
        ModelError, MeasureError, CompileError: as their names say.
    """
    target = bench.target
    offers, costs = survey(model, database, target, choices, settled, bench, on_stage, within)
    uniform = [choice for choice in choices if str(choice) in UNIFORM]
    space = build_space(
        model.digest, offers, uniform=uniform, baseline=target.own_dense, settled=settled is not None
    )  # fmt: skip
    looked_at = layer_choices(model, target, offers, space, database.entries(), costs)
    whole = _anchors(model, space)
    costs = measure_plans(bench, model, whole, costs, partial(on_stage, "whole networks' layers"))
    whole = list(dict.fromkeys(compiler.settle(model, plan, target, costs)[0] for plan in whole))
    times, footprints = _measured(model, whole, database.weights, costs, bench, inputs, scratch, on_stage)
    return Explored(space, costs.fit_network(model, times), footprints, looked_at)


def explore_estimates(
    model: Model,
    database: LayerDatabase,
    choices: Sequence[Choice],
    settled: SettledChoices | None,
    target: Target,
    costs: CostModel,
    on_stage: OnStage,
) -> Explored:
    """Prunes layers, and takes what they should cost from `costs`: nothing is measured, and nothing weighed.

    Args:
        database: receives every layer as every choice that should pay, and as all that are settled.
        choices: what layers may become; `settled` those that a study has begun with.

    Raises:
        MeasureError: the costs are of another target.
    """
    offers = with_errors(estimated_offers(model, target, choices, settled, costs), database, on_stage)
    uniform = [choice for choice in choices if str(choice) in UNIFORM]
    space = build_space(model.digest, offers, uniform=uniform, settled=settled is not None)
    return Explored(space, costs, None, layer_choices(model, target, offers, space, database.entries(), costs))


def _anchors(model: Model, space: SearchSpace) -> list[Plan]:
    """Plans from dense to the sparsest: what lies between layers is told by them."""
    front = surrogate_plans(space)
    steps = [round(share * (len(front) - 1)) for share in (1 / 3, 2 / 3, 1)]
    return list(dict.fromkeys((Plan(model.digest), *(front[step] for step in steps))))


def _measured(
    model: Model,
    plans: Sequence[Plan],
    weights: Weights,
    costs: CostModel,
    bench: Bench,
    inputs: Mapping[str, np.ndarray],
    scratch: Path,
    on_stage: OnStage,
) -> tuple[list[tuple[Plan, Measurement]], Footprints]:
    """Plans measured end to end, for the cost model's residual; weighed, they tell what others take.

    What is on record is not built again.
    """
    kernels = {plan: costs.kernels(model, plan) for plan in plans}
    names = {plan: _name(plan, kernels[plan]) for plan in plans}
    known = {plan: found for plan, name in names.items() if (found := bench.known.find(name)) is not None}
    new = [plan for plan in plans if plan not in known]

    def orders() -> Iterator[NetworkOrder]:
        for number, plan in enumerate(new):
            directory = scratch / f"anchor{number}"
            directory.mkdir()
            yield NetworkOrder(model, plan, weights(plan), kernels[plan], directory)

    on_stage("whole networks", 0, len(new) + 1)
    directories = {}
    for order, library in bench.build(inputs, orders()):
        directories[names[order.plan]] = library.directory
        on_stage("whole networks", len(directories), len(new) + 1)
    times = bench.time_networks(directories, ROUGH_PATIENCE_S) if new else {}
    weighed = bench.weigh_networks(directories)
    for plan in new:
        known[plan] = KnownNetwork(times[names[plan]], weighed[names[plan]])
        if lasts(known[plan].taken):
            bench.known.add(known[plan])
    tell = describe(bench.target)
    stored = {plan: stored_bytes(model, plan, kernels[plan], tell) for plan in plans}
    footprints = Footprints.fit((stored[plan], known[plan].footprint) for plan in plans)
    on_stage("whole networks", len(new) + 1, len(new) + 1)
    return [(plan, known[plan].taken) for plan in plans], footprints


def lasts(taken: Measurement) -> bool:
    """Whether a figure is good enough to be kept: known well, with nobody else at work.

    Else the next search may have a quieter machine.
    """
    return taken.known_to <= NOISY and not taken_by_others(taken.cpu_share)


def _name(plan: Plan, kernels: Mapping[str, str]) -> str:
    """What a network is known by on record: the plan, of its model, and the kernels of its layers."""
    kernels_digest = hashlib.sha256(repr(sorted(kernels.items())).encode()).hexdigest()
    return f"plan {plan.digest} by kernels {kernels_digest}"
