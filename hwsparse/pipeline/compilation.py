"""One plan compiled, without a search; and what every job does alike: where it keeps files, what weights it ships."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from hwsparse.codegen import random_inputs, refusal, require_compilable
from hwsparse.data import Dataset
from hwsparse.errors import DataError, MeasureError, ModelError, PlanError, StorageError
from hwsparse.execution import Workers, open_workers
from hwsparse.latency import Address, CalibrationReport, CostModel, Workload
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench, Desk, open_bench
from hwsparse.pipeline.corrected import CorrectedWeights
from hwsparse.pipeline.estimation import estimated_costs, measured_on_boards
from hwsparse.pipeline.finals import Workshop, build_finalists, package_finalists, time_side_by_side, weigh
from hwsparse.pipeline.judges import Judges, appoint_judges, fitted_on
from hwsparse.pipeline.outcome import Baselines, Finalist, Outcome, Recovery, Weights
from hwsparse.pipeline.verdict import package_estimated
from hwsparse.plan import Choice, Plan
from hwsparse.range_methods import DEFAULT_METHOD, require_use
from hwsparse.search import Candidate
from hwsparse.search.database import Place
from hwsparse.sparsify import LayerDatabase, applicable, apply_plan
from hwsparse.sparsify.ranges import as_bytes, ranges_for
from hwsparse.target import Target

PRUNER = "regroup"

# stage, steps done, steps in all, candidates known by now
OnProgress = Callable[[str, int, int, tuple[Candidate, ...]], None]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a job keeps its files; `records` may be shared by all jobs of a machine, and a study by several jobs.

    `shared_study` None: the study is kept in the directory.
    """

    directory: Path
    records: Path
    shared_study: Place | None = None

    def require_writable(self) -> None:
        """Sees that something can be written there, before there is anything to write; leaves nothing.

        Raises:
            StorageError: it is no directory and cannot be made, or cannot be written to.
        """
        whole = self.directory.absolute()
        above = next(path for path in (whole, *whole.parents) if path.exists())
        if not above.is_dir():
            raise StorageError(f"{above} is a file; name a directory, or remove it")
        try:
            with tempfile.TemporaryFile(dir=above):
                pass
        except OSError as error:
            raise StorageError(f"{self.directory}: cannot be written: {error.strerror or error}") from None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The directory, made if it is not there, for one job at a time; gone again if nothing came of it.

        Raises:
            StorageError: as `require_writable`, or another job is writing there.
        """
        self.require_writable()
        new, lock = not self.directory.exists(), self.directory / "job.lock"
        self.directory.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            try:
                # lockf, not flock: a forked worker that outlives its parent must not keep the lock.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError(
                    f"{self.directory}: another job is writing there; wait for it or choose another output directory"
                ) from None
            try:
                yield
            finally:
                if new and list(self.directory.glob("*")) == [lock]:
                    lock.unlink()
                    self.directory.rmdir()

    @property
    def study(self) -> Place:
        """Where the studies of every job that was done here are kept."""
        return self.shared_study or Place(self.directory / "study.sqlite")

    @property
    def pruned(self) -> Path:
        """A directory with the pruned layers of every model that was pruned here."""
        return self.directory / "pruned"

    @property
    def artifacts(self) -> Path:
        """A directory with one artifact per plan that was built here."""
        return self.directory / "artifacts"


def compile_plan(
    model: Model,
    plan: Plan,
    target: Target,
    workspace: Workspace,
    dataset: Dataset | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda stage, done, total, known: None,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    corrupted: Iterable[Dataset] = (),
    ranges: str = DEFAULT_METHOD,
    board: Address | None = None,
) -> Outcome:
    """Compiles one plan, without a search: measures its layers, refuses those that do not pay, packages.

    With data, weights are fitted on the part of it that a search with that data and seed fits on; without, they
    are pruned by magnitude alone, and int8 layers go by the ranges that a quantised model states. `corrupted` are the
    data under one corruption each, as `optimize` takes them; `ranges` is the method that tells, on data, between what
    lies what int8 layers read; `board` is where to find one, of a target that is timed on boards. Without one, of a
    target that has a [core], times are estimated, as `optimize` does it.

    Raises:
        InputError: there is no such method, or no layer is int8 for it.
        UnsupportedError: the target cannot be timed from here, or does not support a choice of the plan.
        PlanError: the plan does not belong to the model, or has int8 layers that read what the model states no range
            of, and there are no data.
        ModelError: the model has no prunable layers.
        StorageError: the workspace cannot be written to, or another job is writing there.
        MeasureError, CompileError, ArtifactError: as their names say.
    """
    estimated = board is None and target.estimable
    require_work(model, target, board=board is not None, by_estimates=estimated)
    for _, choice in plan.choices:
        target.require(choice)
    require_use(ranges, (choice.dtype for _, choice in plan.choices))
    apply_plan(model, plan)  # refuses a plan of another model before anything is measured
    if dataset is None:
        try:
            ranges_for(model, plan, model.ranges)
        except DataError as error:
            raise PlanError(f"int8 layers need data: {error}; give --data, to see it there") from None
    options = {name: [choice] for name, choice in plan.choices}
    judges, inputs = None, random_inputs(model.inputs, seed)
    weights: Weights = partial(_plain_weights, model)
    if dataset is not None:
        judges = appoint_judges(model, dataset, target, seed, corrupted)
        inputs = judges.sample
    with workspace.taken(), open_workers() as workers:
        if judges is not None:
            database = layer_database(workspace, model, judges, target, seed, workers, ranges)
            database.build(options, lambda stage, done, total: on_progress(stage, done, total, ()))
            weights = CorrectedWeights(database, model, judges, target.host_cores, seed)
        if estimated:
            costs = estimated_costs(target, measured_on_boards(workspace.records, target))
            with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
                desk = Workshop(
                    model, target, weights, costs, Desk(target, clock, workers), judges, inputs, Path(scratch), seed,
                    by_estimates=True,
                )  # fmt: skip
                packaged = package_estimated(
                    desk, {"plan": plan}, workspace.artifacts, lambda done, total: on_progress("plan", done, total, ())
                )
            return _outcome_alone(model, target, workspace, weights, judges, packaged, costs, seed)
        with measured(model, plan, target, workspace, on_progress, clock, workers, board) as (bench, costs):
            return built_alone(
                model, plan, target, workspace, weights, judges, inputs, bench, costs, seed, on_progress, label="plan"
            )  # fmt: skip


def _plain_weights(model: Model, plan: Plan) -> Mapping[str, np.ndarray]:
    return as_bytes(model, plan, apply_plan(model, plan), model.ranges)


@contextmanager
def measured(
    model: Model,
    plan: Plan,
    target: Target,
    workspace: Workspace,
    on_progress: OnProgress,
    clock: Callable[[], datetime],
    workers: Workers,
    board: Address | None = None,
) -> Iterator[tuple[Bench, CostModel]]:
    """The target's bench, and what each layer of a plan costs there, dense and as the plan says.

    Raises:
        MeasureError: a layer that has a kernel could not be measured.
    """
    options = {name: [choice] for name, choice in plan.choices}
    with open_bench(target, workspace.records, clock, board, workers) as bench:
        report = bench.calibrate(model, options, lambda done, total: on_progress("layers", done, total, ()))
        _require_measured(model, plan, target, report)
        yield bench, CostModel.fit(report.table)


def built_alone(
    model: Model,
    plan: Plan,
    target: Target,
    workspace: Workspace,
    weights: Weights,
    judges: Judges | None,
    inputs: Mapping[str, np.ndarray],
    bench: Bench,
    costs: CostModel,
    seed: int,
    on_progress: OnProgress,
    *,
    label: str,
    recovery: Recovery | None = None,
) -> Outcome:
    """Builds one plan beside the dense model, times and judges both, and packages it."""
    with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
        shop = Workshop(model, target, weights, costs, bench, judges, inputs, Path(scratch), seed)
        built = build_finalists(shop, {label: plan}, lambda done, total: on_progress("finalists", done, total, ()))
        weighed = weigh(shop, built)
        on_progress("side by side", 0, 1, ())
        times = time_side_by_side(shop, built, {})
        packaged = package_finalists(shop, built, times, weighed, workspace.artifacts)
        on_progress("side by side", 1, 1, ())
    return _outcome_alone(model, target, workspace, weights, judges, packaged, costs, seed, recovery, bench.cpu_share)


def _outcome_alone(
    model: Model,
    target: Target,
    workspace: Workspace,
    weights: Weights,
    judges: Judges | None,
    packaged: tuple[Baselines, tuple[Finalist, ...]],
    costs: CostModel,
    seed: int,
    recovery: Recovery | None = None,
    cpu_share: float = 1.0,
) -> Outcome:
    """What came of one plan: it has won if it is faster than the dense model."""
    baselines, finalists = packaged
    winner = finalists[0] if finalists[0].faster_than(baselines.dense) else None
    return Outcome(
        model, target, baselines, finalists, winner, (), None, costs, weights, workspace.directory,
        seed, fitted_on(judges) if judges is not None else 0, recovery=recovery, cpu_share=cpu_share,
    )  # fmt: skip


def layer_database(
    workspace: Workspace,
    model: Model,
    judges: Judges,
    target: Target,
    seed: int,
    workers: Workers | None = None,
    ranges: str = DEFAULT_METHOD,
) -> LayerDatabase:
    """The workspace's pruned layers, fitted to the judges' fitting data.

    Args:
        workers: prune them; by default this process does.
        ranges: the method that tells what tensors lie between.

    Raises:
        InputError: there is no such method.
        StorageError: it cannot be made.
        DataError: the data do not fit the model.
    """
    return LayerDatabase(
        workspace.pruned, model, judges.fitting,
        pruner=PRUNER, seed=seed, threads=target.host_cores, workers=workers, ranges=ranges,
    )  # fmt: skip


def uniform_plan(model: Model, choice: Choice) -> Plan:
    """The plan that gives `choice` to every layer that can have it.

    Raises:
        PlanError: no layer can have it.
    """
    reasons = {layer: applicable(layer, choice.pattern) for layer in model.layers}
    layers = [layer for layer, reason in reasons.items() if reason is None]
    if reasons and not layers:
        raise PlanError(f"no layer of {model.name} can be {choice}: {next(iter(reasons.values()))}")
    return Plan.uniform(model.digest, layers, choice)


def require_work(model: Model, target: Target, *, board: bool = False, by_estimates: bool = False) -> None:
    """Refuses, before anything is written, a target that cannot be timed and a model with nothing to prune."""
    if not by_estimates:
        target.require_timing(board=board)
    if not model.layers:
        raise ModelError(f"model {model.name} has no prunable layers: no convolution or product with constant weights")
    require_compilable(model)


def _require_measured(model: Model, plan: Plan, target: Target, report: CalibrationReport) -> None:
    """Refuses a plan of which a layer that has a kernel could not be measured, and says why it could not."""
    for name, choice in plan.choices:
        layer = model.layer(name)
        if refusal(layer, choice):
            continue
        for each in (Choice(), choice):
            if failure := report.failures.get(Workload.of(layer, each, target)):
                raise MeasureError(f"layer {name!r}, {each}, cannot be measured ({failure.stage}): {failure.reason}")
