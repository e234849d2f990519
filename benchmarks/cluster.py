"""What a Ray cluster gains where evaluating plans is all the work, and what it costs when a worker is killed.

A CIFAR-10 ResNet is searched, by plans drawn at random, with workers of a cluster of one host and of two, of a CPU
each and all on this machine, and with processes without Ray. Then once more with two hosts: when a third of the trials
is done, a worker is killed. Nothing that was done may be lost or done again; what the worker was doing is done again.

Figures hold on a machine that has nothing else to do, with at least as many cores as hosts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.tasks import cifar10, data_option
from hwsparse.data import Dataset
from hwsparse.errors import ExecutionError
from hwsparse.execution import Workers, as_done, open_workers
from hwsparse.model import Model
from hwsparse.pattern import Unstructured
from hwsparse.pipeline.trials import evaluated_by
from hwsparse.plan import Choice, Plan
from hwsparse.search import Offer, SearchSpace, build_space
from hwsparse.search.database import Place, StudyIdentity, opened_study
from hwsparse.search.study import SearchSettings, TrialOutcome, run_search
from hwsparse.search.trials import PLAN_KEY
from hwsparse.sparsify import Evaluator, QualityReport, applicable, apply_plan

LEAST_SPEEDUP = 1.6
HOSTS = 2
RATIOS = (0.5, 0.7, 0.9)


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--layers", type=int, choices=(20, 56), default=56, help="of the ResNet")
    parser.add_argument("--plans", type=int, default=60)
    parser.add_argument("--samples", type=int, default=500, help="that a plan is evaluated on")
    data_option(parser)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a search: qualities by plan, trials that are in the study, and evaluations that were begun."""

    seconds: float
    qualities: Mapping[str, float]
    trials: int
    begun: int


@dataclass(frozen=True, slots=True)
class Noting:
    """An evaluator that writes down, of each plan, that a process has begun with it."""

    evaluator: Evaluator
    begun: Path

    @property
    def dataset(self) -> Dataset:
        return self.evaluator.dataset

    def on_one_thread(self) -> Noting:
        return replace(self, evaluator=self.evaluator.on_one_thread())

    def evaluate(self, weights: Mapping[str, np.ndarray], at_least: float = -np.inf) -> QualityReport:
        if weights:
            with open(self.begun, "a") as file:
                file.write(f"{os.getpid()}\n")
        return self.evaluator.evaluate(weights)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Searches by one host, by two, by processes, and by two of which one loses its worker."""
    if importlib.util.find_spec("ray") is None:
        raise ExecutionError("this takes Ray, which is not installed: pip install 'hwsparse[ray]'")
    console = Console()
    task = cifar10(arguments.layers)(arguments.data, arguments.seed)
    evaluator = Evaluator(task.model, task.held_out.subset(range(arguments.samples)), "held-out", seed=arguments.seed)
    count, seed = arguments.plans, arguments.seed
    found: dict[str, Run] = {}
    for hosts in range(1, HOSTS + 1):
        with _cluster(hosts) as address, open_workers(address) as workers:
            found[f"Ray, {hosts} host{'s' if hosts > 1 else ''}"] = search(workers, task.model, evaluator, count, seed)
            if hosts == HOSTS:
                found["Ray, a worker killed"] = search(
                    workers, task.model, evaluator, count, seed, kill_after=count // 3
                )
    with open_workers(processes=HOSTS) as workers:
        found[f"{HOSTS} processes"] = search(workers, task.model, evaluator, count, seed)
    one, many, killed, _ = found.values()
    speedup, lost = one.seconds / many.seconds, len(lost_plans(killed, one))
    again, doubled = killed.begun - one.begun, killed.trials - one.trials
    table = Table("", "trials/s", title=f"{task.model.name}: {count} trials on {arguments.samples} samples each")
    for name, each in found.items():
        table.add_row(name, f"{each.trials / each.seconds:.2f}")
    console.print(table)
    floors = Table("", "", "holds", title="floors")
    for what, figure, holds in (
        (f"{HOSTS} hosts against one, at least {LEAST_SPEEDUP:g}x", f"{speedup:.2f}x", speedup >= LEAST_SPEEDUP),
        ("plans lost of a killed worker, none", f"{lost}", not lost),
        ("trials that it has doubled, none", f"{doubled}", not doubled),
        ("evaluations made again, at most one", f"{again}", again <= 1),
    ):
        floors.add_row(what, figure, "yes" if holds else "[bold red]NO")
    console.print(floors)
    figures = {name.replace(", ", "_").replace(" ", "_") + "_s": each.seconds for name, each in found.items()}
    details = {name: {"seconds": each.seconds, "begun": each.begun} for name, each in found.items()}
    counts = {"lost": float(lost), "doubled": float(doubled), "again": float(again)}
    return {**figures, "speedup": speedup, **counts}, details


def search(
    workers: Workers, model: Model, evaluator: Evaluator, count: int, seed: int, kill_after: int | None = None
) -> Run:
    """Searches by plans that are drawn at random; workers have started before the clock does.

    Args:
        count: trials.
        kill_after: when so many trials are done, a worker is killed that is in the middle of one.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-")))
        identity = StudyIdentity(model.digest, evaluator.dataset.digest, "", "", 1, "cluster", ())
        study = stack.enter_context(opened_study(Place(scratch / "study.sqlite"), "cluster", identity))
        begun, left = scratch / "begun", kill_after
        begun.touch()
        list(as_done(workers, _started, [(number,) for number in range(4 * workers.parallel)]))
        evaluate = evaluated_by(
            workers, cast(Evaluator, Noting(evaluator, begun)), lambda plan: apply_plan(model, plan)
        )

        def on_trial(trial: TrialOutcome) -> None:
            nonlocal left
            if left is not None and trial.done >= left and (busy := _busy(begun)):
                os.kill(busy, signal.SIGKILL)
                left = None

        settings = SearchSettings(count, seed, "random", seed_share=0.0, parallel=workers.parallel)
        began = time.perf_counter()
        run_search(study, _space(model), evaluate, partial(_work, model), settings, on_trial=on_trial)
        seconds = time.perf_counter() - began
        complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
        qualities = {trial.user_attrs[PLAN_KEY]: trial.values[1] for trial in complete}
        return Run(seconds, qualities, len(complete), len(begun.read_text().splitlines()))


def lost_plans(run: Run, sound: Run) -> set[str]:
    """Plans that a run did not evaluate, or not as a sound one did."""
    return {plan for plan, quality in sound.qualities.items() if run.qualities.get(plan) != quality}


@dataclass(frozen=True, slots=True)
class _Work:
    """What a search takes for latency here, where none is measured: the share of multiply-adds that are left."""

    latency_s: float
    source: str = "predicted"

    @property
    def interval_s(self) -> tuple[float, float]:
        return self.latency_s, self.latency_s


def _work(model: Model, plan: Plan) -> _Work:
    kept = sum(layer.macs * (1 - plan.choice(layer.name).ratio) for layer in model.layers)
    return _Work(kept / sum(layer.macs for layer in model.layers))


def _space(model: Model) -> SearchSpace:
    """Every layer that can have zeros anywhere, at a few ratios."""
    offers = {}
    for layer in model.layers:
        ratios = RATIOS if applicable(layer, Unstructured()) is None else ()
        offers[layer.name] = [
            Offer(choice, layer.macs * (1 - choice.ratio), (layer.macs * (1 - choice.ratio),) * 2, choice.ratio**2)
            for choice in (Choice(), *(Choice(Unstructured(), ratio) for ratio in ratios))
        ]
    return build_space(model.digest, offers)


def _started(number: int) -> int:
    """A task that shows that there is somebody to do it."""
    return number


def _busy(begun: Path) -> int | None:
    """A process that is in the middle of a plan: the one that began last; None: nobody has."""
    processes = begun.read_text().split()
    return int(processes[-1]) if processes else None


@contextmanager
def _cluster(hosts: int) -> Iterator[str]:
    """The address of a cluster of so many hosts with a CPU each, all of them on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(hosts - 1):
            cluster.add_node(num_cpus=1)
        yield str(cluster.address)
    finally:
        cluster.shutdown()
