"""Whole networks compiled through TVM for simulated accelerators: what they answer, and what they take.

Weights are the networks' own, pruned by magnitude and rounded; answers are held to onnxruntime's on the values that
bytes stand for. The accelerator's cycles are counted, the host's part is timed on this machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.networks import NETWORKS, plan_for
from hwsparse.codegen import Library, compile_model, relative_error
from hwsparse.codegen.fpga.kernel import takes
from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import MeasureError
from hwsparse.latency.contender import Contender
from hwsparse.plan import parse_choice
from hwsparse.sparsify import apply_plan
from hwsparse.sparsify.ranges import as_bytes, tensor_ranges
from hwsparse.target import load_target

CHOICES = ("dense/int8", "unstructured@0.9/int8")
SAMPLES, CALIBRATION = 30, 3


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network under a choice, compiled for an accelerator."""

    target: str
    network: str
    choice: str
    layers: int  # on the accelerator
    of_layers: int
    compile_s: float
    run_s: float  # of the simulator, for one sample
    error: float  # of the answers, relative to the largest
    accelerator_s: float
    host_s: float

    @property
    def seconds(self) -> float:
        return self.accelerator_s + self.host_s


def artifacts(console: Console, networks: Sequence[str], targets: Sequence[str], seed: int) -> list[Artifact]:
    """Every network, dense and pruned, for every target; prints them."""
    found = [each for name in networks for each in _of_network(name, targets, seed)]
    title = "networks compiled through TVM; ResNet-50 without its first and last layer pruned"
    columns = ("ms", "faster", "accelerator ms", "host ms", "on it", "error", "compile s", "simulate s")
    table = Table("network", "target", "choice", *columns, title=title)
    for each in found:
        dense = next(other for other in found if (other.network, other.target) == (each.network, each.target))
        milliseconds = (f"{1e3 * seconds:.3f}" for seconds in (each.accelerator_s, each.host_s))
        table.add_row(
            each.network, each.target, each.choice, f"{1e3 * each.seconds:.3f}", f"{dense.seconds / each.seconds:.2f}",
            *milliseconds, f"{each.layers} of {each.of_layers}", f"{each.error:.2g}", f"{each.compile_s:.1f}",
            f"{each.run_s:.2f}",
        )  # fmt: skip
    console.print(table)
    return found


def _of_network(name: str, targets: Sequence[str], seed: int) -> Iterator[Artifact]:
    network = NETWORKS[name]
    model = network.build(1)
    inputs, *calibration = (network.draw(model, seed + index) for index in range(1 + CALIBRATION))
    ranges = tensor_ranges(model, calibration)
    for target_name in targets:
        target = load_target(target_name)
        machine = target.accelerator
        if machine is None:
            raise MeasureError(f"target {target_name} has no accelerator")
        for choice in map(parse_choice, CHOICES):
            plan = plan_for(model, network.layers, choice)
            weights = as_bytes(model, plan, apply_plan(model, plan), ranges)
            with tempfile.TemporaryDirectory(prefix="hwsparse-artifacts-") as scratch:
                began = time.perf_counter()
                compile_model(model, plan, weights, target, Path(scratch))
                compile_s = time.perf_counter() - began
                library = Library.load(Path(scratch), target.threads)
                began = time.perf_counter()
                answers = library.run(inputs)
                run_s = time.perf_counter() - began
                expected = onnxruntime_answers(model, weights, inputs)
                error = max(relative_error(answers[output], value) for output, value in expected.items())
                assert library.accelerated is not None
                accelerator_s = library.accelerated.timed().interval_s(machine)
                whole_s = statistics.median(Contender.load(Path(scratch), target.threads).time(SAMPLES, 3))
            on_it = sum(takes(layer, plan.choice(layer.name), target) for layer in model.layers)
            yield Artifact(
                target_name, name, str(choice), on_it, len(model.layers), compile_s, run_s, error, accelerator_s,
                whole_s - accelerator_s,
            )  # fmt: skip
