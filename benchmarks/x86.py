"""A sparse network on this CPU, timed in turns with onnxruntime, OpenVINO and DeepSparse in one run.

Layers are calibrated first, as for any user: the kernels that are fastest alone make the networks.

Dense: hwsparse, onnxruntime, and OpenVINO in float32, bfloat16 and int8 (quantised on random inputs: good for timing,
not for quality). On the same weights, pruned by magnitude: hwsparse, and DeepSparse in float32 and int8. OpenVINO and
DeepSparse run in environments of their own, whose Pythons are named; a peer without one, or that fails, is named and
its key is nan.

Every runtime has a process of its own on the same CPUs; float32 outputs are compared with onnxruntime's on the same
weights before anything is timed. A sample is one call as Python makes it; hwsparse's are taken by TVM's clock, which
leaves some microseconds of Python out.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import environments
from benchmarks.environments import ENVIRONMENTS, FLOAT32, LOSSY, find_peers
from benchmarks.networks import LAYERS, NETWORKS, Network, dense_plan, plan_for, sparse_choice
from benchmarks.peers.case import write_case
from benchmarks.peers.ours import library_directory
from benchmarks.turns import Contender, Result, Timing, time_in_turns
from hwsparse.codegen import build_model
from hwsparse.codegen.library import WEIGHTS
from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import CostModel, MeasureFailure
from hwsparse.latency.process import choose_cpus
from hwsparse.model import Model
from hwsparse.pipeline.bench import open_bench
from hwsparse.plan import Choice, Plan
from hwsparse.probe import ALLOWED_CPUS
from hwsparse.sparsify import apply_plan, pruned_proto
from hwsparse.sparsify.ranges import as_bytes, tensor_ranges
from hwsparse.target import Target, load_target

CALIBRATION = 10
MAX_DRIFT = 0.1
REFERENCE, ONNXRUNTIME, DENSE, SPARSE = "reference", "onnxruntime", "ours, dense", "ours, sparse"
ONNXRUNTIME_INT8 = "onnxruntime int8"
# Of our networks against onnxruntime on the same weights, and the same bytes: rounding may tip one over.
TOLERANCES = {"float32": FLOAT32, "int8": 0.05}
# The case whose answers are of the dense network in bytes.
ROUNDED = "rounded"
OURS, MATMUL = "benchmarks.peers.ours:Ours", "benchmarks.peers.reference:Reference"
# The figures that are one contender's median time divided by another's.
RATIOS = {
    "ort_over_ours": (ONNXRUNTIME, SPARSE),
    "ort_over_ours_dense": (ONNXRUNTIME, DENSE),
    "deepsparse_over_ours": ("deepsparse", SPARSE),
    "deepsparse_int8_over_ours": ("deepsparse int8", SPARSE),
    "openvino_f32_over_ours": ("openvino f32", SPARSE),
    "openvino_bf16_over_ours": ("openvino bf16", SPARSE),
    "openvino_int8_over_ours": ("openvino int8", SPARSE),
    "openvino_int8_over_ours_dense": ("openvino int8", DENSE),
    "ort_int8_over_ours": (ONNXRUNTIME_INT8, SPARSE),
}


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--model", choices=sorted(NETWORKS), required=True)
    parser.add_argument("--pattern", required=True, help="of the pruned layers: unstructured, block4x1, 2:4, ...")
    parser.add_argument("--sparsity", type=float, required=True, help="their share of zeros, between 0 and 1")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="of our weights")
    parser.add_argument("--layers", choices=sorted(LAYERS), help="which are pruned; by default what suits the model")
    parser.add_argument("--batch", type=int, default=1, help="images or sentences in a call")
    parser.add_argument("--records", type=Path, help="a file that keeps what was measured of layers for the next run")
    environments.options(parser)


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Prepares both cases, lets everybody take turns, compares."""
    console = Console()
    choice = sparse_choice(arguments.pattern, arguments.sparsity, arguments.dtype)
    if arguments.batch < 1:
        raise InputError(f"a batch has at least 1 sample, not {arguments.batch}")
    target = load_target("x86-local")
    if arguments.threads:
        target = target.with_threads(arguments.threads)
    target.require_timing()
    target.require(choice)
    network = NETWORKS[arguments.model]
    model = network.build(arguments.batch)
    plan = plan_for(model, arguments.layers or network.layers, choice)
    with tempfile.TemporaryDirectory(prefix="hwsparse-x86-") as scratch:
        records = arguments.records or Path(scratch) / "records.sqlite"
        cases = _prepare(network, model, plan, arguments.dtype, target, arguments.seed, Path(scratch), records, console)
        peers = find_peers({name: getattr(arguments, name) for name in ENVIRONMENTS}, cases.directory, target.threads)
        runs = _steady_run((*cases.contenders(target.threads), *peers.contenders), console)
    results = runs[-1] | {failure.key: failure for failure in peers.absent}
    console.print(_table(results, f"{model.name}, {choice} in {len(plan.choices)} layers, threads: {target.threads}"))
    for name, result in results.items():
        if isinstance(result, MeasureFailure):
            console.print(f"{name} is left out: {result.reason}", soft_wrap=True, markup=False)
    figures = {key: _ratio(results, slow, fast) for key, (slow, fast) in RATIOS.items()}
    figures["scaling_2_threads"] = _ratio(results, cases.names.get(1, ""), cases.names.get(2, ""))
    # What the machine lets anything gain: far from 2, its second CPU was busy, and our own figure says little.
    alone, together = (_reference(count, target.threads) for count in (1, 2))
    figures["scaling_2_threads_reference"] = _ratio(results, alone, together)
    figures["compile_s"] = cases.compile_s[target.threads]
    figures["weights_ratio"] = cases.weights_ratio
    figures["max_rel_err"] = max(_own(results, name).error for name in (DENSE, *cases.names.values()))
    details = {
        "model": model.digest,
        "plan": plan.to_json(),
        "batch": arguments.batch,
        "threads": target.threads,
        "cpus": choose_cpus(target.threads),
        "compile_s": cases.compile_s,
        "versions": dict(peers.versions),
        "runs": [{name: _details(result) for name, result in taken.items()} for taken in runs],
        "absent": {failure.key: failure.reason for failure in peers.absent},
    }
    return figures, details


@dataclass(frozen=True, slots=True)
class Cases:
    """The network dense and pruned, ready for every runtime; by number of threads: our sparse contender's name."""

    directory: Path
    dtype: str
    names: Mapping[int, str]
    compile_s: Mapping[int, float]
    weights_ratio: float

    @property
    def dense(self) -> Path:
        """Where our dense network is: of bytes it has answers of its own."""
        return self.directory / ("dense" if self.dtype == "float32" else ROUNDED)

    def contenders(self, threads: int) -> tuple[Contender, ...]:
        """Those that run in this environment."""
        dense, sparse = self.directory / "dense", self.directory / "sparse"
        return (
            *(Contender(_reference(count, threads), MATMUL, dense, count, 0.0) for count in self.names),
            Contender(ONNXRUNTIME, "benchmarks.peers.onnxruntime:Onnxruntime", dense, threads, FLOAT32),
            Contender(ONNXRUNTIME_INT8, "benchmarks.peers.onnxruntime:Int8", dense, threads, LOSSY),
            Contender(DENSE, OURS, self.dense, threads, TOLERANCES[self.dtype]),
            *(Contender(name, OURS, sparse, count, TOLERANCES[self.dtype]) for count, name in self.names.items()),
        )


def _reference(count: int, threads: int) -> str:
    """The reference's name at so many threads, when everybody else has `threads`."""
    return REFERENCE if count == threads else f"{REFERENCE}, threads: {count}"


def _prepare(
    network: Network,
    model: Model,
    plan: Plan,
    dtype: str,
    target: Target,
    seed: int,
    directory: Path,
    records: Path,
    console: Console,
) -> Cases:
    """Writes and compiles both cases: the sparse one for 1 and 2 threads too, where the machine has them.

    Peers get float32 weights; what ours makes of bytes is compared with onnxruntime on the values that bytes stand for.
    """
    inputs, *calibration = (network.draw(model, seed + index) for index in range(1 + CALIBRATION))
    weights, dense = apply_plan(model, plan), dense_plan(model, dtype)
    ranges = tensor_ranges(model, calibration) if dtype == "int8" else {}
    ours, ours_dense = as_bytes(model, plan, weights, ranges), as_bytes(model, dense, {}, ranges)
    answered = {"dense": ({}, {}), "sparse": (weights, ours)}
    if dtype != "float32":
        answered[ROUNDED] = ({}, ours_dense)
    for case, (values, compared) in answered.items():
        (directory / case).mkdir()
        answers = onnxruntime_answers(model, compared, inputs)
        write_case(directory / case, pruned_proto(model, values), inputs, answers, calibration)

    names = {target.threads: SPARSE}
    if min(len(ALLOWED_CPUS), target.cores) > 1:
        names = {count: f"{SPARSE}, threads: {count}" for count in (1, 2)} | names
    costs = {count: _calibrate(model, (dense, plan), target.with_threads(count), records, console) for count in names}
    where = "dense" if dtype == "float32" else ROUNDED
    _compile(model, dense, ours_dense, target, costs[target.threads], directory / where)
    compile_s = {
        count: _compile(model, plan, ours, target.with_threads(count), costs[count], directory / "sparse")
        for count in names
    }
    kept = (library_directory(directory / "sparse", target.threads) / WEIGHTS).stat().st_size
    return Cases(directory, dtype, names, compile_s, kept / _float_bytes(model))


def _calibrate(model: Model, plans: Iterable[Plan], target: Target, records: Path, console: Console) -> CostModel:
    """Measures the layers, dense and as plans have them."""
    options: dict[str, list[Choice]] = {}
    for name, choice in (each for plan in plans for each in plan.choices):
        options.setdefault(name, []).append(choice)
    with (
        Progress(console=console, transient=True) as progress,
        open_bench(target, records, lambda: datetime.now(timezone.utc)) as bench,
    ):
        task = progress.add_task(f"layers, threads: {target.threads}")
        report = bench.calibrate(model, options, lambda done, total: progress.update(task, completed=done, total=total))
    for workload, failure in report.failures.items():
        console.print(f"not measured: {workload.key}: {failure.reason}", soft_wrap=True, markup=False)
    return CostModel.fit(report.table)


def _compile(
    model: Model, plan: Plan, weights: Mapping[str, np.ndarray], target: Target, costs: CostModel, case: Path
) -> float:
    """Makes a case's library for the target's threads; gives the seconds that it took."""
    library = library_directory(case, target.threads)
    library.mkdir()
    start = time.perf_counter()
    build_model(model, plan, weights, target, library, costs.kernels(model, plan))
    return time.perf_counter() - start


def _float_bytes(model: Model) -> int:
    """What the dense network's float32 weights take."""
    stored = onnx.load_from_string(model.proto).graph.initializer
    return sum(numpy_helper.to_array(item).nbytes for item in stored if item.data_type == TensorProto.FLOAT)


def _steady_run(contenders: tuple[Contender, ...], console: Console) -> list[dict[str, Result]]:
    """Results of one run, and of a second one where the machine changed its pace in the first."""
    first = time_in_turns(contenders)
    drift = _own(first, REFERENCE).drift
    if drift <= MAX_DRIFT:
        return [first]
    console.print(f"the reference drifted by {drift:.0%} while others were timed: once more")
    second = time_in_turns(contenders)
    if (drift := _own(second, REFERENCE).drift) > MAX_DRIFT:
        console.print(f"the reference drifted by {drift:.0%} again: take the figures with care")
    return [first, second]


def _own(results: Mapping[str, Result], name: str) -> Timing:
    """The timing of a contender without which there is nothing to tell.

    Raises:
        MeasureError: it failed.
    """
    result = results[name]
    if not isinstance(result, Timing):
        raise MeasureError(f"{name} could not be timed ({result.stage}): {result.reason}")
    return result


def _ratio(results: Mapping[str, Result], slow: str, fast: str) -> float:
    """How many times as long `slow` takes; nan when one of them was not timed."""
    times = [results.get(name) for name in (slow, fast)]
    medians = [taken.median_s for taken in times if isinstance(taken, Timing)]
    return medians[0] / medians[1] if len(medians) == 2 else math.nan


def _table(results: Mapping[str, Result], title: str) -> Table:
    table = Table("", "median ms", "minimum ms", "times ours, sparse", "rel. error", title=f"{title}; timed in turns")
    for name, result in results.items():
        if isinstance(result, Timing):
            times = (f"{seconds * 1e3:.3g}" for seconds in (result.median_s, result.minimum_s))
            table.add_row(name, *times, f"{_ratio(results, name, SPARSE):.2f}x", f"{result.error:.1e}")
    return table


def _details(result: Result) -> dict[str, object]:
    if isinstance(result, Timing):
        return {"error": result.error, "samples_s": result.turns_s}
    return {"failed": result.stage, "reason": result.reason}
