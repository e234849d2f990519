"""From candidates to artifacts: build the best plans, time them beside dense and onnxruntime, judge, package."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwsparse import compiler
from hwsparse.codegen import Library
from hwsparse.compiler import Figures
from hwsparse.latency import CostModel
from hwsparse.latency.contender import write_onnxruntime_contender
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.outcome import Baselines, Finalist
from hwsparse.pipeline.weights import PrunedWeights
from hwsparse.plan import Plan
from hwsparse.sparsify import Evaluator, QualityReport
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Judges:
    """The two splits' evaluators; None without data."""

    choosing: Evaluator | None
    reporting: Evaluator | None


DENSE, ONNXRUNTIME = "dense", "onnxruntime"


def build_and_time(
    model: Model,
    plans: Mapping[str, Plan],
    weights: PrunedWeights,
    target: Target,
    costs: CostModel,
    bench: Bench,
    judges: Judges,
    inputs: Mapping[str, np.ndarray],
    scratch: Path,
    artifacts: Path,
    on_step: Callable[[int, int], None],
) -> tuple[Baselines, tuple[Finalist, ...]]:
    """Builds plans (by label), times all of them with the baselines in one run, and packages them.

    Args:
        inputs: one real sample, with the batch axis; outputs on it must be onnxruntime's.
        scratch: a directory for libraries.
        artifacts: a directory that receives one artifact per plan that is not dense in the end.
    """
    settled = {label: compiler.settle(model, plan, target, costs) for label, plan in plans.items()}
    settled[DENSE] = (Plan(model.digest), {})
    libraries: dict[str, Library] = {}
    built: dict[Plan, Library] = {}
    for done, (label, (plan, _)) in enumerate(settled.items()):
        if plan not in built:
            directory = scratch / plan.digest[:16]
            directory.mkdir()
            built[plan] = compiler.build(model, plan, weights(plan), target, inputs, directory)
        libraries[label] = built[plan]
        on_step(done + 1, len(settled) + 1)
    directories = {label: library.directory for label, library in libraries.items()}
    directories[ONNXRUNTIME] = scratch / ONNXRUNTIME
    directories[ONNXRUNTIME].mkdir()
    write_onnxruntime_contender(model, directories[ONNXRUNTIME])
    times = bench.time_networks(directories)
    baselines = Baselines(times[DENSE], times[ONNXRUNTIME], _judge(judges.choosing, {}), _judge(judges.reporting, {}))
    finalists = []
    for label, (plan, refused) in settled.items():
        if label == DENSE:
            continue
        quality = _judge(judges.reporting, weights(plan))
        figures = Figures(times[label], times[DENSE], times[ONNXRUNTIME], quality, baselines.quality)
        place = artifacts / plan.digest[:16]
        shutil.rmtree(place, ignore_errors=True)  # an artifact of the same plan from an earlier run
        artifact = compiler.package(
            model, plan, refused, libraries[label], target, costs, figures, place, bench.clock()
        )
        chosen_by = _judge(judges.choosing, weights(plan))
        finalists.append(Finalist(label, plans[label], plan, refused, times[label], chosen_by, quality, artifact))
    on_step(len(settled) + 1, len(settled) + 1)
    return baselines, tuple(finalists)


def _judge(evaluator: Evaluator | None, weights: Mapping[str, np.ndarray]) -> QualityReport | None:
    return None if evaluator is None else evaluator.evaluate(weights)


def pick_winner(
    finalists: Sequence[Finalist],
    baselines: Baselines,
    max_drop: float,
    min_quality: float | None,
    max_latency_s: float | None,
) -> Finalist | None:
    """The fastest finalist that is faster than dense beyond noise and within the limits; None: there is none.

    Quality is that on calibration data: held-out data report and do not choose.
    """

    def eligible(finalist: Finalist) -> bool:
        if not finalist.faster_than(baselines.dense):
            return False
        if max_latency_s is not None and finalist.latency.median_s > max_latency_s:
            return False
        if finalist.chosen_by is None or baselines.chosen_by is None:
            return True
        value = finalist.chosen_by.value
        return value >= baselines.chosen_by.value - max_drop - 1e-9 and (min_quality is None or value >= min_quality)

    return min(filter(eligible, finalists), key=lambda finalist: finalist.latency.median_s, default=None)
