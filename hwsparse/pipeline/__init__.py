"""The whole job as one function: a model, data and a device in; a front and artifacts out.

    exploration.py   what a search must know before its first trial
    survey.py   what every choice costs each layer on the device, and harms on calibration data
    thrift.py   layers measured, all or as few as tell the others; calibration.py: that and nothing else
    candidates.py   the search: plans with predicted latency and measured quality, on calibration data
    trials.py   plans evaluated by workers
    finals.py   the best plans built, timed end to end beside dense and onnxruntime, judged on held-out data
    small_dense.py, ceiling.py   what the winner is held to: a narrower dense network as fast; zeros anywhere
    forecast.py what a plan should take, and whether any can keep to the goal
    estimation.py   what a device that is not there should take
    verdict.py  finalists and what they are held to side by side, and the winner
    judges.py   the data in three parts: to fit weights, to choose, to report
    bench.py    where all of that is measured; building.py: what is timed, built by workers
    compilation.py   one plan compiled without a search, and what all jobs do alike
    recovery.py      a torch module pruned, trained and compiled; school.py: where it and its rivals are trained
    goal.py     what is asked for; outcome.py: what is found; figures.py, choices.py: as reports

What a stage measured is kept (records, study), so a job that was stopped goes on where it was, also when layers
are timed anew in between.
Knows neither the command line nor the service.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from hwsparse import compiler
from hwsparse.data import Dataset
from hwsparse.errors import InputError, UnsupportedError
from hwsparse.execution import Workers, open_workers
from hwsparse.latency import Address, Device
from hwsparse.metric import METRICS
from hwsparse.model import Model
from hwsparse.pipeline.bench import Desk, Place, open_bench
from hwsparse.pipeline.candidates import find_candidates
from hwsparse.pipeline.compilation import (
    PRUNER,
    OnProgress,
    Workspace,
    compile_plan,
    layer_database,
    require_work,
    uniform_plan,
)
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.estimation import estimated_costs, measured_on_boards, require_no_device
from hwsparse.pipeline.exploration import explore, explore_estimates
from hwsparse.pipeline.figures import coarseness_notes, front_report, robustness_notes
from hwsparse.pipeline.finals import Workshop, finalist_plans, held_to, rounded_plans
from hwsparse.pipeline.goal import DTYPES, Goal
from hwsparse.pipeline.judges import Judges, appoint_judges, fitted_on
from hwsparse.pipeline.outcome import Baselines, Finalist, Limits, Outcome, Rivals, SmallDense
from hwsparse.pipeline.survey import choices_of
from hwsparse.pipeline.thrift import measure_plans
from hwsparse.pipeline.verdict import estimated_verdict, reach_verdict
from hwsparse.plan import Choice
from hwsparse.search import Candidate
from hwsparse.search.database import StudyIdentity, opened_study
from hwsparse.target import Target

__all__ = [
    "DTYPES",
    "Baselines",
    "Finalist",
    "Goal",
    "Outcome",
    "Rivals",
    "SmallDense",
    "Workspace",
    "coarseness_notes",
    "compile_plan",
    "front_report",
    "optimize",
    "robustness_notes",
    "uniform_plan",
]


def optimize(
    model: Model,
    dataset: Dataset,
    target: Target,
    goal: Goal,
    workspace: Workspace,
    on_progress: OnProgress = lambda stage, done, total, known: None,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    corrupted: Iterable[Dataset] = (),
    workers: Workers | None = None,
    board: Address | None = None,
) -> Outcome:
    """Finds the model's front on the target and packages the finalists.

    The data are split three ways by the goal's seed: a sixth fits weights, a third chooses, and half is only
    ever reported on. `corrupted` are the data under one corruption each: finalists are judged on the held-out half of
    them too, and nothing is fitted to them or chosen by them. `workers` prune layers, evaluate plans and
    build libraries; by default processes of this machine do. `board` is where to find one, of a target that is timed on
    boards: layers and networks are timed there, and all else is done here. Without one, of a target that has a [core],
    times are estimated, but for layers that are on record of a board; finalists are compiled, and run nowhere.

    Raises:
        UnsupportedError: the target cannot be timed from here, is pipelined, or lacks a pattern that the goal names.
        ModelError: the model has no prunable layers.
        DataError: the data do not fit the model.
        InputError: no plan can keep to the goal's bounds; it says what can be had. Or it asks what only a device
            can tell, and there is none.
        StorageError: the workspace cannot be written to, or another job is writing there.
        ExecutionError: workers were lost.
        StudyError: the study cannot be used: said before anything is measured; or too many trials failed in a row.
        MeasureError, CompileError, ArtifactError: as their names say.
    """
    estimated = board is None and target.estimable
    require_work(model, target, board=board is not None, by_estimates=estimated)
    if estimated:
        require_no_device(goal, target)
    if target.pipelined:
        raise UnsupportedError(
            f"target {target.name} is pipelined, and searches go by the sum of layers' times: compile plans for it"
        )
    if METRICS[dataset.metric].percent and goal.max_drop > 1:
        raise InputError(
            f"quality drop: {dataset.metric} is a fraction, of which 0.01 is one point, not {goal.max_drop:g}"
        )
    choices = choices_of(target, goal.patterns, goal.ratios, goal.dtypes)
    if not choices:
        raise UnsupportedError(
            f"target {target.name} has kernels for layers as they are in {' and '.join(goal.dtypes)} alone, so that "
            "there is nothing to choose: `supported` in its descriptor says what else there is"
        )
    judges = appoint_judges(model, dataset, target, goal.seed, corrupted)
    identity = _identity(model, judges, target, choices, goal.ranges)
    known: tuple[Candidate, ...] = ()

    def on_stage(stage: str, done: int, total: int) -> None:
        on_progress(stage, done, total, known)

    def on_known(tried: tuple[Candidate, ...]) -> None:
        nonlocal known
        known = tried

    with ExitStack() as stack:
        stack.enter_context(workspace.taken())
        study = stack.enter_context(opened_study(workspace.study, f"{model.name} on {target.name}", identity))
        workers = workers or stack.enter_context(open_workers())
        bench = None if estimated else stack.enter_context(open_bench(target, workspace.records, clock, board, workers))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-")))
        database = layer_database(workspace, model, judges, target, goal.seed, workers, goal.ranges)
        settled = None if study.beginning is None else study.beginning.choices
        if bench is None:
            costs = estimated_costs(target, measured_on_boards(workspace.records, target))
            explored = explore_estimates(model, database, choices, settled, target, costs, on_stage)
        else:
            explored = explore(model, database, choices, settled, bench, judges.sample, scratch, goal.within, on_stage)
        candidates = find_candidates(
            model, judges, database, explored, target, goal, study, workers, on_stage, on_known
        )  # fmt: skip
        known = candidates
        rounded = rounded_plans(explored.space)
        plans = rounded | finalist_plans(candidates, goal.finalists, goal.max_drop, rounded.values())
        proven = explored.costs
        if bench is not None:
            proven = measure_plans(bench, model, plans.values(), proven, partial(on_stage, "finalists' layers"))
        corrected = CorrectedWeights(database, model, judges, target.host_cores, goal.seed)
        shipped = (
            compiler.settle(
                model, plan, target, proven, by_estimates=estimated, baseline=held_to(label, target)
            )[0]
            for label, plan in plans.items()
        )  # fmt: skip
        corrected.begin(shipped, workers, {candidate.plan: candidate.quality for candidate in candidates})
        limits = Limits(goal.max_drop, goal.bounds)
        if bench is None:
            desk: Workshop[Place] = Workshop(
                model, target, corrected, proven, Desk(target, clock, workers), judges, judges.sample, scratch,
                goal.seed, corrected.worth, by_estimates=True,
            )  # fmt: skip
            verdict = estimated_verdict(desk, judges, plans, limits, database, workspace.artifacts, on_stage)
        else:
            shop = Workshop(
                model, target, corrected, proven, bench, judges, judges.sample, scratch, goal.seed, corrected.worth
            )
            verdict = reach_verdict(shop, judges, plans, limits, database, workspace.artifacts, on_stage)
    return Outcome(
        model, target, verdict.baselines, verdict.finalists, verdict.winner, candidates, explored.space, explored.costs,
        corrected, workspace.directory, goal.seed, fitted_on(judges), verdict.rivals, footprints=explored.footprints,
        limits=limits, cpu_share=1.0 if bench is None else bench.cpu_share, choices=explored.choices,
    )  # fmt: skip


def _identity(
    model: Model, judges: Judges, target: Target, choices: Iterable[Choice], ranges: str
) -> StudyIdentity:  # fmt: skip
    """What a study must have in common with a job to go on with it; ranges, where layers may be int8."""
    texts, timed_here = tuple(sorted(map(str, choices))), target.runner in ("local", "simulator")
    device = hashlib.sha256(f"{target.compiled_for} {Device.probe().digest if timed_here else ''}".encode()).hexdigest()
    pruner = f"{PRUNER}, {ranges} ranges" if any(choice.dtype == "int8" for choice in choices) else PRUNER
    return StudyIdentity(
        model.digest, judges.choosing.dataset.digest, target.name, device, target.threads, pruner, texts
    )  # fmt: skip
