"""`hwsparse measure`: whole networks, timed side by side on this machine or on a board."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwsparse import strictjson
from hwsparse.artifact import Artifact, LatencyFigure
from hwsparse.artifact.manifest import NOISY, noise_note
from hwsparse.cli import options
from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import (
    Address,
    BoardRunner,
    Device,
    LocalRunner,
    MeasureFailure,
    Measurement,
    RunSettings,
    Toolchain,
)
from hwsparse.latency.load import load_note
from hwsparse.latency.measurement import MIN_SAMPLES, Source
from hwsparse.latency.presence import Needs
from hwsparse.latency.runner import ProcessRunner

# Calls of a network in one turn at most: however many are asked for, a turn is over before it seems to hang.
TURN = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """A network's figures; seconds are of one call, of `batch` samples."""

    path: str
    runtime: str
    batch: int
    median_s: float
    interval_s: tuple[float, float]  # 95 % of the median
    quiet_s: float
    samples_per_s: float
    peak_memory_bytes: int | None
    file_bytes: int
    samples_s: tuple[float, ...]
    cpu_share: float  # of its CPU, that the process had
    source: Source  # measured, or simulated on the accelerator that the artifact is for


@dataclass(frozen=True, slots=True)
class Report:
    """What one command measured, and where."""

    device: Device
    settings: RunSettings
    networks: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class _Network:
    runtime: str
    directory: Path  # what the worker loads
    batch: int
    file_bytes: int


def measure(
    networks: list[Path] = typer.Argument(
        metavar="NETWORK...", help="Artifacts' directories, and ONNX files, which onnxruntime runs as they are."
    ),
    threads: int = typer.Option(1, help="Threads that all of them run with."),
    samples: int = typer.Option(
        60, min=MIN_SAMPLES, max=10_000, help="Calls that are timed of each at least; five times as many at most."
    ),
    shape: list[str] = options.SHAPE,
    tracker: str | None = options.TRACKER,
    priority: int = options.PRIORITY,
    json: bool = typer.Option(False, "--json", help="Print everything as JSON, raw samples included."),
) -> None:
    """Times networks side by side, in turns: artifacts, and ONNX files in onnxruntime.

    What an artifact takes on a simulated accelerator is simulated, with its host's part measured here.
    With --tracker artifacts are timed on a board, registered there under the name of their target.

    Turns go on until every median is known to 2 %, or for a minute; where that does not do, it says so.
    Beside latency: samples in a second, the most memory that a network takes beyond its runtime, and the size of what
    is deployed. More samples in a call are asked for by the shapes that a model is compiled for.
    """
    from hwsparse.pipeline.bench import NETWORK_PATIENCE_S

    if len(set(networks)) < len(networks):
        raise InputError("a network is named twice; name each once")
    settings = run_settings(threads, samples)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsparse-measure-")))
        found = {str(path): _network(path, scratch / str(at), shape) for at, path in enumerate(networks)}
        runner = stack.enter_context(_runner(networks, threads, tracker, priority))
        memory = {name: runner.peak_memory(name, network.directory, settings) for name, network in found.items()}
        directories = {name: network.directory for name, network in found.items()}
        times = runner.run_many(directories, settings, patience_s=NETWORK_PATIENCE_S)
    measured, failed = [], list[str]()
    for name, network in found.items():
        taken, most = times[name], memory[name]
        if not isinstance(taken, Measurement):
            failed.append(f"{name} could not be timed ({taken.stage}): {taken.reason}")
            continue
        measured.append(
            Measured(
                name, network.runtime, network.batch, taken.median_s, taken.interval_s, taken.quiet_s,
                network.batch / taken.median_s, None if isinstance(most, MeasureFailure) else most,
                network.file_bytes, taken.samples_s, taken.cpu_share, taken.source,
            )
        )  # fmt: skip
    report = Report(runner.device, settings, tuple(measured))
    if json:
        print(strictjson.dumps(report, indent=1))
    else:
        show(report, Console())
    if failed:
        raise MeasureError("; ".join(failed))


def show(report: Report, console: Console) -> None:
    """Prints a report as a table, and what there is to say of how well its times are known."""
    console.print(_table(report))
    figures = (
        LatencyFigure(each.median_s, each.interval_s, each.source, len(each.samples_s)) for each in report.networks
    )
    notes = noise_note(figures), load_note(min((each.cpu_share for each in report.networks), default=1.0))
    for note in filter(None, notes):
        console.print(note)


def _runner(networks: list[Path], threads: int, tracker: str | None, priority: int) -> ProcessRunner:
    """What times the networks, on this machine or on a board.

    Raises:
        InputError: not all of them are artifacts of one target, which boards run only.
        ArtifactError: one is not whole.
    """
    from hwsparse.codegen import KERNEL_VERSION
    from hwsparse.latency.alone import timing_lock
    from hwsparse.latency.contender import LOADER

    clock = partial(datetime.now, timezone.utc)
    if tracker is None:
        return LocalRunner(Toolchain(KERNEL_VERSION, "", ""), clock, loader=LOADER, lock=timing_lock())
    if foreign := [path for path in networks if not path.is_dir()]:
        raise InputError(f"{foreign[0]}: there is no onnxruntime on a board; name artifacts' directories only")
    manifests = [Artifact.load(path).manifest for path in networks]
    targets = {manifest.target.name: manifest for manifest in manifests}
    if len(targets) > 1:
        raise InputError(f"artifacts for {' and '.join(sorted(targets))}: boards of one target are timed at a time")
    ((name, manifest),) = targets.items()
    tvm = dict(manifest.toolchain).get("apache-tvm", "")
    needs = Needs.of_code(name, manifest.target.tvm_target, (), threads, tvm)
    return BoardRunner(Toolchain(KERNEL_VERSION, tvm, ""), clock, Address.parse(tracker, name, priority), needs=needs)


def _network(path: Path, scratch: Path, shape: list[str]) -> _Network:
    """An artifact, verified; or a model made ready for onnxruntime in `scratch`.

    Raises:
        InputError: it is neither.
        ArtifactError, ModelError: it is not whole, or cannot be read.
    """
    from hwsparse.latency.contender import write_onnxruntime_contender
    from hwsparse.model import import_onnx

    if path.is_dir():
        artifact = Artifact.load(path)
        batch = artifact.manifest.inputs[0].shape[0] if artifact.manifest.inputs[0].shape else 1
        return _Network("hwsparse", path, batch, sum(entry.size for entry in artifact.manifest.files))
    if path.suffix != ".onnx":
        raise InputError(f"{path}: neither an artifact's directory nor a file .onnx")
    model = import_onnx(path, shapes=options.shapes(shape))
    scratch.mkdir()
    write_onnxruntime_contender(model, scratch)
    return _Network("onnxruntime", scratch, model.inputs[0].shape[0] if model.inputs[0].shape else 1, len(model.proto))


def _table(report: Report) -> Table:
    device, threads = report.device, report.settings.threads
    board = f" of {device.cpu or device.machine}, CPUs {device.used}" if device.used else ""
    table = Table(
        "network", "runtime", "median", "95 % interval", "fastest tenth", "samples/s", "memory", "files",
        title=escape(f"{threads} thread{'s' if threads > 1 else ''}{board}"),
    )  # fmt: skip
    for each in report.networks:
        low, high = (1e3 * bound for bound in each.interval_s)
        runtime = each.runtime if each.source == "measured" else f"{each.runtime}, {each.source}"
        memory = "-" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:.1f} MB"
        table.add_row(
            escape(each.path), runtime, f"{1e3 * each.median_s:.3f} ms", f"{low:.3f} to {high:.3f}",
            f"{1e3 * each.quiet_s:.3f}", f"{each.samples_per_s:.1f}", memory, f"{each.file_bytes / 1e6:.1f} MB",
        )  # fmt: skip
    return table


def run_settings(threads: int, samples: int) -> RunSettings:
    """How networks are timed side by side."""
    rounds = math.ceil(samples / TURN)
    return RunSettings(threads=threads, samples=samples, rounds=rounds, precision=NOISY, warmup_s=0.2)
