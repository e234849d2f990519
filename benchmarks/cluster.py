"""What a Ray cluster gains where evaluating plans is all the work, and what it costs when a worker is killed.

Plans of a CIFAR-10 ResNet are evaluated, as a search does, by a cluster of one host and of two, with a CPU each and all
on this machine, and by processes without Ray. Then once more by two hosts: when a third of the plans is done, a worker
is killed. Nothing that was done may be lost or done again; what the worker was doing is done again.

Figures hold on a machine that has nothing else to do, with at least as many cores as hosts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.tasks import cifar10, data_option
from hwsparse.errors import ExecutionError
from hwsparse.execution import Workers, as_done, open_workers
from hwsparse.model import Model
from hwsparse.pattern import Unstructured
from hwsparse.plan import Choice, Plan
from hwsparse.sparsify import Evaluator, applicable, apply_plan

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
    """What came of evaluating all plans: qualities by plan, and how often an evaluation was begun."""

    seconds: float
    qualities: Mapping[int, float]
    begun: int


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Evaluates the same plans by one host, by two, by processes, and by two of which one loses its worker."""
    if importlib.util.find_spec("ray") is None:
        raise ExecutionError("this takes Ray, which is not installed: pip install 'hwsparse[ray]'")
    console = Console()
    task = cifar10(arguments.layers)(arguments.data, arguments.seed)
    evaluator = Evaluator(task.model, task.held_out.subset(range(arguments.samples)), "held-out", seed=arguments.seed)
    plans = [apply_plan(task.model, plan) for plan in random_plans(task.model, arguments.plans, arguments.seed)]
    found: dict[str, Run] = {}
    for hosts in range(1, HOSTS + 1):
        with _cluster(hosts) as address, open_workers(address) as workers:
            found[f"Ray, {hosts} host{'s' if hosts > 1 else ''}"] = evaluate(workers, evaluator, plans)
            if hosts == HOSTS:
                found["Ray, a worker killed"] = evaluate(workers, evaluator, plans, kill_after=len(plans) // 3)
    with open_workers(processes=HOSTS) as workers:
        found[f"{HOSTS} processes"] = evaluate(workers, evaluator, plans)
    one, many, killed, _ = found.values()
    speedup, lost = one.seconds / many.seconds, len(lost_plans(killed, one))
    again = killed.begun - len(plans)
    table = Table("", "plans/s", title=f"{task.model.name}: {len(plans)} plans on {arguments.samples} samples each")
    for name, each in found.items():
        table.add_row(name, f"{len(plans) / each.seconds:.2f}")
    console.print(table)
    floors = Table("", "", "holds", title="floors")
    for what, figure, holds in (
        (f"{HOSTS} hosts against one, at least {LEAST_SPEEDUP:g}x", f"{speedup:.2f}x", speedup >= LEAST_SPEEDUP),
        ("plans lost of a killed worker, none", f"{lost}", not lost),
        ("evaluations made again, at most one", f"{again}", again <= 1),
    ):
        floors.add_row(what, figure, "yes" if holds else "[bold red]NO")
    console.print(floors)
    figures = {name.replace(", ", "_").replace(" ", "_") + "_s": each.seconds for name, each in found.items()}
    details = {name: {"seconds": each.seconds, "begun": each.begun} for name, each in found.items()}
    return {**figures, "speedup": speedup, "lost": float(lost), "again": float(again)}, details


def random_plans(model: Model, count: int, seed: int) -> list[Plan]:
    """Plans with every layer that can have zeros anywhere at a ratio drawn for it."""
    rng = np.random.default_rng(seed)
    names = [layer.name for layer in model.layers if applicable(layer, Unstructured()) is None]
    return [
        Plan.of(model.digest, {name: Choice(Unstructured(), float(rng.choice(RATIOS))) for name in names})
        for _ in range(count)
    ]


def evaluate(
    workers: Workers,
    evaluator: Evaluator,
    plans: Sequence[Mapping[str, np.ndarray]],
    kill_after: int | None = None,
) -> Run:
    """Evaluates plans, given as their weights; workers have started before the clock does.

    Args:
        kill_after: when so many plans are done, a worker is killed that is in the middle of one.
    """
    shared = workers.share(evaluator)
    with tempfile.TemporaryDirectory(prefix="hwsparse-") as scratch:
        begun, warm = Path(scratch) / "begun", Path(scratch) / "warm"
        list(as_done(workers, _quality, [(shared, {}, str(warm), 0)] * (4 * workers.parallel)))
        calls = [(shared, weights, str(begun), number) for number, weights in enumerate(plans)]
        qualities: dict[int, float] = {}
        started = time.perf_counter()
        for number, quality in as_done(workers, _quality, calls):
            qualities[number] = quality
            if kill_after is not None and len(qualities) >= kill_after and (busy := _busy(begun, qualities)):
                os.kill(busy[0], signal.SIGKILL)
                kill_after = None
        seconds = time.perf_counter() - started
        return Run(seconds, qualities, len(begun.read_text().splitlines()))


def lost_plans(run: Run, sound: Run) -> set[int]:
    """Plans that a run did not evaluate, or not as a sound one did."""
    return {number for number, quality in sound.qualities.items() if run.qualities.get(number) != quality}


def _quality(evaluator: Evaluator, weights: Mapping[str, np.ndarray], begun: str, number: int) -> tuple[int, float]:
    """The task: writes down that it has begun, and where."""
    with open(begun, "a") as file:
        file.write(f"{number} {os.getpid()}\n")
    return number, evaluator.evaluate(weights).value


def _busy(begun: Path, done: Container[int]) -> list[int]:
    """Processes that are in the middle of a plan."""
    started = (map(int, line.split()) for line in begun.read_text().splitlines())
    return [process for number, process in started if number not in done]


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
