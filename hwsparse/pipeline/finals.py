"""From candidates to artifacts: build the best plans, time them beside dense and onnxruntime, judge, package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hwsparse import compiler
from hwsparse.artifact import replace_artifact
from hwsparse.codegen import Library
from hwsparse.compiler import Figures
from hwsparse.errors import StudyError
from hwsparse.latency import CostModel, Measurement
from hwsparse.latency.contender import write_onnxruntime_contender
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import Baselines, Finalist, Weights
from hwsparse.plan import Plan
from hwsparse.search import Candidate, pareto_front, pick_finalists
from hwsparse.target import Target

ROUNDING = 1e-9  # 0.92 - 0.90 is a little more than 0.02
DENSE, ONNXRUNTIME = "dense", "onnxruntime"
# Finalists may lose this many times the drop allowed: the front shows what lies beyond the winner.
SHOWN_DROPS = 5


def finalist_plans(candidates: Sequence[Candidate], count: int, max_drop: float) -> dict[str, Plan]:
    """Plans to build, by label: the fastest that is safe and the best of the front; the best uniform one beside.

    Raises:
        StudyError: the dense model is not among the candidates.
    """
    dense = next((candidate for candidate in candidates if candidate.kind == "dense"), None)
    if dense is None:
        raise StudyError("the study has no result for the dense model; search in another output directory")
    sparse = [candidate for candidate in candidates if candidate.plan.choices]
    safe = [candidate for candidate in sparse if dense.quality - candidate.sure_quality <= max_drop + ROUNDING]
    picked = pick_finalists(
        [candidate for candidate in pareto_front(candidates) if candidate.plan.choices],
        count,
        musts=pareto_front(safe)[:1],
        min_quality=dense.quality - max(SHOWN_DROPS * max_drop, 0.02),
    )
    plans = {f"search {number}": candidate.plan for number, candidate in enumerate(picked, 1)}
    for uniform in pareto_front([candidate for candidate in safe if candidate.kind == "uniform"])[:1]:
        if uniform.plan not in plans.values():
            plans["uniform"] = uniform.plan
    return plans


def build_and_time(
    model: Model,
    plans: Mapping[str, Plan],
    weights: Weights,
    target: Target,
    costs: CostModel,
    bench: Bench,
    judges: Judges | None,
    inputs: Mapping[str, np.ndarray],
    scratch: Path,
    artifacts: Path,
    on_step: Callable[[int, int], None],
) -> tuple[Baselines, tuple[Finalist, ...]]:
    """Builds plans (by label), times all of them with the baselines in one run, and packages them.

    Args:
        weights: pruned weights of any of the plans.
        judges: None without data: nothing is judged.
        inputs: one real sample, with the batch axis; outputs on it must be onnxruntime's.
        scratch: a directory for libraries.
        artifacts: a directory that receives one artifact per plan; it takes the place of an older one of the plan.
        on_step: called with steps done and steps in all.

    Returns:
        The baselines, and a finalist per plan, in the order of the plans.

    Raises:
        CompileError: a plan does not compile, or its outputs are wrong.
        MeasureError: a network, or a layer that a plan makes sparse, was not timed.
        ArtifactError: an artifact cannot be written.
    """
    settled = {label: compiler.settle(model, plan, target, costs) for label, plan in plans.items()}
    settled[DENSE] = (Plan(model.digest), {})
    libraries: dict[str, Library] = {}
    built: dict[Plan, Library] = {}
    for done, (label, (plan, _)) in enumerate(settled.items()):
        if plan not in built:
            directory = scratch / plan.digest[:16]
            directory.mkdir()
            kernels = costs.kernels(model, plan)
            built[plan] = compiler.build(model, plan, weights(plan), target, kernels, inputs, directory)
        libraries[label] = built[plan]
        on_step(done + 1, len(settled) + 1)
    directories = {label: library.directory for label, library in libraries.items()}
    directories[ONNXRUNTIME] = scratch / ONNXRUNTIME
    directories[ONNXRUNTIME].mkdir()
    write_onnxruntime_contender(model, directories[ONNXRUNTIME])
    times = bench.time_networks(directories)
    baselines = Baselines(
        times[DENSE],
        times[ONNXRUNTIME],
        judges.reporting.evaluate({}) if judges else None,
        judges.robustness({}) if judges else None,
    )
    finalists = []
    for label, (plan, refused) in settled.items():
        if label == DENSE:
            continue
        pruned = weights(plan)
        chosen_by = judges.choosing.evaluate(pruned) if judges else None
        quality = judges.reporting.evaluate(pruned) if judges else None
        figures = Figures(times[label], times[DENSE], times[ONNXRUNTIME], quality, baselines.quality)
        package = partial(
            compiler.package, model, plan, refused, libraries[label], target, costs, figures, now=bench.clock()
        )
        # Named by the plan asked for: two of them may ship as the same plan, each with its own proof.
        artifact = replace_artifact(artifacts / plans[label].digest[:16], package)
        robustness = judges.robustness(pruned) if judges else None
        finalists.append(
            Finalist(label, plans[label], plan, refused, times[label], chosen_by, quality, artifact, robustness)
        )
    on_step(len(settled) + 1, len(settled) + 1)
    return baselines, tuple(finalists)


def pick_winner(
    finalists: Sequence[Finalist],
    dense: Measurement,
    max_drop: float,
    min_quality: float | None,
    max_latency_s: float | None,
) -> Finalist | None:
    """The fastest finalist that is faster than dense beyond noise and within the limits; None: there is none.

    Quality is that on calibration data: held-out data report and do not choose. A drop counts with one
    standard error: of many plans on few samples, the best looking are those that were lucky.
    """

    def eligible(finalist: Finalist) -> bool:
        if not finalist.faster_than(dense):
            return False
        if max_latency_s is not None and finalist.latency.median_s > max_latency_s:
            return False
        quality = finalist.chosen_by
        if quality is None:
            return True
        likely_drop = quality.drop + quality.drop_error
        return likely_drop <= max_drop + ROUNDING and (min_quality is None or quality.value >= min_quality)

    return min(filter(eligible, finalists), key=lambda finalist: finalist.latency.median_s, default=None)
