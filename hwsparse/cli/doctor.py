"""The command `doctor`: whether this installation can do what it is for, and what to mend where it cannot.

Each check looks at one thing and says what it found. What cannot be used at all is wrong; what makes figures worse, or
leaves a part of hwsparse out, is worth knowing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json as json_
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from hwsparse.errors import HwsparseError
from hwsparse.latency.cores import SYS, shown, usable_cpus
from hwsparse.latency.heat import read_heat
from hwsparse.latency.load import Bystanders, taken_by_others
from hwsparse.probe import cache_directory
from hwsparse.target import Target, load_target

State = Literal["ok", "note", "wrong"]

PACKAGES = ("torch", "apache-tvm", "onnx", "onnxruntime", "optuna", "grpcio")
# A module or a program, and what hwsparse cannot do without it.
EXTRAS = (
    ("ziglang", "link code for Arm, or without a C compiler", "pip install ziglang"),
    ("amaranth", "check simulated accelerators by their hardware description", "pip install 'hwsparse[rtl]'"),
    ("ray", "spread work over a cluster", "pip install 'hwsparse[ray]'"),
    ("psycopg", "keep studies on a PostgreSQL server", "pip install 'hwsparse[postgresql]'"),
)
PROGRAMS = (("qemu-aarch64", "check Arm code without a board", "install qemu-user with the system's package manager"),)
ROOM_BYTES = 2 << 30
# What is timed for noise: so many pieces, each about so long; how far apart nine of ten may lie, relative.
PIECES, PIECE_S, NOISE = 300, 3e-3, 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` is empty where nothing is to be done."""

    check: str
    state: State
    what: str
    remedy: str = ""


def doctor(json: bool = typer.Option(False, "--json", help="Print the findings as JSON.")) -> None:
    """Checks this installation: packages, compiler, instructions, cores, noise of the clock, room. Takes seconds.

    Exits with 1 if something is wrong, else with 0.
    """
    console = Console(highlight=False)
    found = []
    for check in CHECKS:
        with console.status(f"{check.__name__.strip('_')} ..."):
            each = list(check())
        found += each
        if not json:
            for finding in each:
                _show(finding, console)
    if json:
        print(json_.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(1)


def _show(finding: Finding, console: Console) -> None:
    colour = {"ok": "green", "note": "yellow", "wrong": "red"}[finding.state]
    console.print(f"[{colour}]{finding.state:>5}[/]  [bold]{finding.check}[/]: {escape(finding.what)}")
    if finding.remedy:
        console.print(Padding(f"[dim]do:[/] {escape(finding.remedy)}", (0, 0, 0, 7)))


def _packages() -> Iterator[Finding]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", "wrong", f"{name} is not installed", f"pip install {name}")
    yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _instructions() -> Iterator[Finding]:
    try:
        here = load_target("x86-local")
    except HwsparseError as error:
        yield Finding("instructions", "wrong", str(error), "describe this machine: hwsparse targets probe")
        return
    cpu = json_.loads(here.tvm_target).get("mcpu", "this machine's")
    what = f"{here.vector_bits}-bit vectors ({', '.join([cpu, *here.isa])})"
    if here.vector_bits < 256:
        remedy = "a CPU with AVX2 or AVX-512, or an Arm one with NEON, is several times as fast"
        yield Finding("instructions", "note", what, remedy)
    elif not any("vnni" in feature for feature in here.isa):
        remedy = "int8 gains less here: 1.4 to 1.8 times instead of 3"
        yield Finding("instructions", "note", f"{what}; none that multiplies bytes by fours (VNNI)", remedy)
    else:
        yield Finding("instructions", "ok", what)


def _compiler() -> Iterator[Finding]:
    """A small network is compiled, linked, run, and compared with onnxruntime."""
    try:
        target = load_target("x86-local").with_threads(1)
        with tempfile.TemporaryDirectory(prefix="hwsparse-doctor-") as scratch:
            _build(target, Path(scratch))
    except HwsparseError as error:
        yield Finding("compiler", "wrong", str(error), "mend what it names, and run hwsparse doctor again")
    else:
        linker = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or "ziglang"
        yield Finding("compiler", "ok", f"a small network compiles (linked by {linker}), runs, and answers rightly")


def _build(target: Target, directory: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hwsparse import compiler
    from hwsparse.model import import_onnx
    from hwsparse.plan import Plan

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((32, 16, 1, 1)).astype(np.float32), "weight")
    shapes = {"x": (1, 16, 8, 8), "y": (1, 32, 8, 8)}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph([helper.make_node("Conv", ["x", "weight"], ["y"], "conv")], "small", [x], [y], [weight])
    path = directory / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = import_onnx(path)
    sample = {"x": rng.standard_normal(shapes["x"]).astype(np.float32)}
    (directory / "built").mkdir()
    compiler.build(model, Plan(model.digest), {}, target, {}, sample, directory / "built")


def _cores() -> Iterator[Finding]:
    cpus, quota = usable_cpus(), _quota()
    what = f"{len(cpus)} of {os.cpu_count()} CPUs ({shown(cpus)})"
    if quota is not None and quota < len(cpus):
        remedy = "timings stop and go under such a quota: give the container whole CPUs (--cpuset-cpus)"
        yield Finding("cores", "note", f"{what}, but time on {quota:.3g} of them at most", remedy)
    elif len(cpus) == 1:
        yield Finding("cores", "note", what, "what times and what works beside it share one CPU: two are better")
    else:
        yield Finding("cores", "ok", what)


def _quota(group: Path = Path("/sys/fs/cgroup")) -> float | None:
    """On how many CPUs a container may spend time (Linux, cgroup v2, cpu.max); None: as many as there are."""
    try:
        most, period = (group / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _clock() -> Iterator[Finding]:
    """The same small work many times over: how far apart its times lie, and who else was at work."""
    cpus = usable_cpus()
    watched = Bystanders(cpus, (os.getpid(),))
    apart = spread(_times())
    busy = taken_by_others(watched.left_to_us())
    what = f"nine of ten times lie within {apart:.1%}" + (f"; {busy}" if busy else "")
    trouble = read_heat(cpus, SYS).trouble
    if trouble:
        yield Finding("clock", "note", f"{what}; {trouble}", "let it cool, or set the performance governor")
    elif apart > NOISE or busy:
        yield Finding("clock", "note", what, "close what else runs; on a virtual machine, neighbours are out of reach")
    else:
        yield Finding("clock", "ok", what)


def _times() -> list[float]:
    values = np.ones(1 << 13, np.float32)

    def work(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            np.multiply(values, 1.0, out=values)
        return time.perf_counter() - began

    work(1000)
    times = max(1, round(PIECE_S / (work(1000) / 1000)))
    return [work(times) for _ in range(PIECES)]


def spread(times: list[float]) -> float:
    """How far apart nine of ten of these lie, in shares of the middle one."""
    tenths = statistics.quantiles(times, n=20)
    return (tenths[-1] - tenths[0]) / statistics.median(times)


def _room() -> Iterator[Finding]:
    places = {"temporary files": Path(tempfile.gettempdir())}
    cache = cache_directory()
    if cache is None:
        yield Finding("room", "note", "this user has no home for what was measured", "set XDG_CACHE_HOME")
    else:
        places["what was measured"] = cache
    for name, path in places.items():
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        what = f"{name} in {path}: {free / 1e9:.1f} GB free"
        if not os.access(existing, os.W_OK):
            yield Finding(
                "room", "wrong", f"{path} cannot be written", "set TMPDIR or XDG_CACHE_HOME to a place that can"
            )
        elif free < ROOM_BYTES:
            yield Finding("room", "note", what, "large networks need a few GB: make room, or set TMPDIR elsewhere")
        else:
            yield Finding("room", "ok", what)


def _extras() -> Iterator[Finding]:
    known = [(name, importlib.util.find_spec(name) is not None, use, remedy) for name, use, remedy in EXTRAS]
    known += [(name, shutil.which(name) is not None, use, remedy) for name, use, remedy in PROGRAMS]
    for name, here, use, remedy in known:
        if here:
            yield Finding("extras", "ok", f"{name} can {use}")
        else:
            yield Finding("extras", "note", f"without {name} hwsparse cannot {use}", f"if you want that: {remedy}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _packages, _instructions, _compiler, _cores, _clock, _room, _extras,
)  # fmt: skip
