"""Target descriptors: what a device is, what code for it looks like, and how code on it is timed.

A descriptor is a TOML file; those in `targets/` ship with the package, users keep theirs in the
directories that $HWSPARSE_TARGETS names, or give a path. Unknown keys are errors. A descriptor with
`hardware = "probe"` in place of a [hardware] table describes the machine it is loaded on, by `probe`.

Knows neither TVM nor how a runner works.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwsparse import stricttoml
from hwsparse.accelerator import Accelerator, format_accelerator, read_accelerator
from hwsparse.core import Core, format_core, read_core
from hwsparse.errors import InputError, TargetError, UnsupportedError
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice
from hwsparse.probe import ALLOWED_CPUS, cpu_flags, machine, probe_hardware

KINDS = ("cpu", "gpu", "fpga")
# How code on a target is timed; this version can do those in CAN_TIME. Of an "estimator" there is no device: what it
# would take is predicted from its [core].
RUNNERS = ("local", "rpc", "cuda", "simulator", "estimator")
CAN_TIME = ("local", "rpc", "simulator")
DTYPES = ("float32", "float16", "bfloat16", "int8")
MAX_DESCRIPTOR_BYTES = 1 << 20
PATH_VARIABLE = "HWSPARSE_TARGETS"
PROBE = "probe"

# Field: least and most. The upper ends are far beyond any device: they catch a slip of the unit.
_RANGES: dict[str, tuple[int, int]] = {
    "cores": (1, 10**6),
    "threads": (1, 10**6),
    "memory_bytes": (1, 10**15),
    "peak_flops": (1, 10**18),
    "bandwidth_bytes_per_s": (1, 10**16),
    "vector_bits": (0, 10**5),
    "vector_registers": (0, 10**4),
    "l1d_bytes": (0, 10**12),
    "l2_bytes": (0, 10**12),
}
# The keys of [hardware] and their types.
_HARDWARE: dict[str, type] = {
    "cores": int,
    "memory_bytes": int,
    "peak_flops": float,
    "bandwidth_bytes_per_s": float,
    "vector_bits": int,
    "vector_registers": int,
    "l1d_bytes": int,
    "l2_bytes": int,
}
_NEEDED = ("cores", "memory_bytes", "peak_flops", "bandwidth_bytes_per_s")


@dataclass(frozen=True, slots=True)
class Target:
    """A device. Figures are of the whole device: peak over all cores, caches per core."""

    name: str
    kind: str  # one of KINDS
    description: str
    tvm_target: str  # JSON text of a TVM target
    runner: str  # one of RUNNERS
    supported: tuple[tuple[str, str], ...]  # (pattern, dtype): what there are kernels for
    threads: int  # that inference runs with
    cores: int
    memory_bytes: int
    peak_flops: float  # float32 per second (of the supported dtype where there is no float32)
    bandwidth_bytes_per_s: float
    vector_bits: int = 0  # CPUs, and hosts of accelerators: width of a SIMD register
    vector_registers: int = 0
    l1d_bytes: int = 0
    l2_bytes: int = 0
    isa: tuple[str, ...] = ()  # CPU flags that its code needs, as /proc/cpuinfo names them
    pipelined: bool = False  # layers work side by side on one sample after the other: the slowest sets the pace
    core: Core | None = None  # CPUs: what times are estimated from, where there is no device
    accelerator: Accelerator | None = None  # FPGAs: the machine that is simulated

    def __post_init__(self) -> None:
        # The name is a file's name too, in target directories and in records.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise TargetError(f"target {self.name!r}: a name is 1 to 64 letters, digits, '.', '_' and '-'")
        try:
            self._check()
        except InputError as error:
            raise TargetError(f"target {self.name}: {error}") from None

    def _check(self) -> None:
        if not self.description.isprintable():
            raise TargetError("description is one line of printable text")
        for field, names in (("kind", KINDS), ("runner", RUNNERS)):
            if (given := getattr(self, field)) not in names:
                raise TargetError(f"{field} {given!r} is unknown; {stricttoml.known(given, names)}")
        for field, (least, most) in _RANGES.items():
            if not least <= getattr(self, field) <= most:  # false for NaN too
                raise TargetError(f"{field} must be {least} to {most:g}, not {getattr(self, field)}")
        if self.threads > self.cores:
            raise TargetError(f"threads must not be more than the {self.cores} cores, not {self.threads}")
        if self.core is not None and self.kind != "cpu":
            raise TargetError(f"a {self.kind} has no [core], which is a CPU's")
        if self.accelerator is not None:
            self._check_accelerator(self.accelerator)
        if (self.runner == "simulator") != (self.accelerator is not None):
            raise TargetError("the runner simulator and an [accelerator], whose cycles it counts, go together")
        if self.runner == "estimator" and self.core is None:
            raise TargetError("the runner estimator needs a [core] to estimate times from")
        has_code = self.kind == "cpu" or self.accelerator is not None
        if has_code and (self.vector_bits not in (128, 256, 512) or self.vector_registers not in (16, 32)):
            whose = "a CPU has" if self.kind == "cpu" else "the host of an accelerator is a CPU, which has"
            raise TargetError(f"{whose} vector_registers 16 or 32 of vector_bits 128, 256 or 512")
        if not all(re.fullmatch(r"\w+", flag, re.ASCII) for flag in self.isa):
            raise TargetError("isa is a list of CPU flags as /proc/cpuinfo names them, such as avx2")
        for pattern, dtype in self.supported:
            if dtype not in DTYPES:
                raise TargetError(f"dtype {dtype!r} is unknown; {stricttoml.known(dtype, DTYPES)}")
            if str(parse_pattern(pattern)) != pattern:
                raise TargetError(f"pattern {pattern!r} is written {parse_pattern(pattern)}")
        if len(set(self.supported)) < len(self.supported):
            raise TargetError("supported names a pattern twice")
        _check_tvm_target(self.tvm_target)

    def _check_accelerator(self, accelerator: Accelerator) -> None:
        """Figures that [hardware] and [accelerator] both tell must agree."""
        if self.kind != "fpga":
            raise TargetError(f"a {self.kind} has no [accelerator], which is an fpga's")
        for field in ("peak_flops", "bandwidth_bytes_per_s"):
            if not math.isclose(told := getattr(self, field), made := getattr(accelerator, field), rel_tol=1e-6):
                raise TargetError(f"{field} must be {made:g}, as [accelerator] makes it, not {told:g}")
        hosts = ("dense", "float32")
        if any(dtype != accelerator.dtype and (pattern, dtype) != hosts for pattern, dtype in self.supported):
            raise TargetError(
                f"[supported] names other types than {accelerator.dtype}, which the [accelerator] is of, and dense "
                "float32, which its host runs"
            )

    def supports(self, choice: Choice) -> bool:
        """Whether the target can run layers of this choice."""
        return (str(choice.pattern), choice.dtype) in self.supported

    def require(self, choice: Choice) -> None:
        """Refuses a choice that the target does not support.

        Raises:
            UnsupportedError: naming what it does support.
        """
        if not self.supports(choice):
            have = ", ".join(pattern for pattern, dtype in self.supported if dtype == choice.dtype)
            raise UnsupportedError(
                f"target {self.name} cannot run {choice.pattern} in {choice.dtype}; "
                + (f"in {choice.dtype} it can run {have}" if have else f"it has nothing in {choice.dtype}")
            )

    def require_type(self, dtype: str) -> None:
        """Refuses a type of weights in which the target supports no pattern.

        Raises:
            UnsupportedError: so it is.
        """
        if all(dtype != supported for _, supported in self.supported):
            raise UnsupportedError(f"target {self.name} supports nothing in {dtype[:80]}")

    def require_timing(self, *, board: bool = False) -> None:
        """Refuses a target that cannot be timed from here; one that runs on a `board` needs one to be named.

        Raises:
            UnsupportedError: no runner for it in this version, its code is not this machine's, or it runs with
                more threads than this process may use CPUs.
        """
        if self.runner == "estimator":
            raise UnsupportedError(f"target {self.name} has no device to be timed on; its times are estimated only")
        if self.runner not in CAN_TIME:
            names = ", ".join(target.name for target in _sound_targets() if target.runner in CAN_TIME)
            raise UnsupportedError(
                f"target {self.name} is timed by the runner {self.runner!r}, which this version does not have; "
                f"targets that it can time: {names}"
            )
        if board != (self.runner == "rpc"):
            raise UnsupportedError(
                f"target {self.name} is timed here, and needs no tracker"
                if board
                else f"target {self.name} is timed on a board: tell `hwsparse calibrate`, `compile` or `optimize` by "
                "--tracker HOST:PORT where boards are registered"
            )
        if board:
            return
        triple = json.loads(self.tvm_target).get("mtriple", "")
        if triple and (code := machine(triple.partition("-")[0])) != machine():
            raise UnsupportedError(f"target {self.name} is timed where it runs, on {code}; this machine is {machine()}")
        if missing := sorted(set(self.isa) - cpu_flags()):
            raise UnsupportedError(f"target {self.name} needs {', '.join(missing)}, which this machine's CPU lacks")
        if self.threads > len(ALLOWED_CPUS):
            raise UnsupportedError(
                f"target {self.name} runs with {self.threads} threads; this process may use {len(ALLOWED_CPUS)} CPUs"
            )

    @property
    def usual_dtypes(self) -> tuple[str, ...]:
        """Types that layers' weights may have where nobody asks for others: an accelerator's own, or else float32."""
        return ("float32",) if self.accelerator is None else (self.accelerator.dtype,)

    @property
    def own_dense(self) -> Choice | None:
        """What an accelerator makes of a dense layer, against which it is held to its zeros; None: it has none."""
        return None if self.accelerator is None else Choice(dtype=self.accelerator.dtype)

    @property
    def estimable(self) -> bool:
        """Whether what it would take can be estimated where there is no board of it."""
        return self.runner in ("rpc", "estimator") and self.core is not None and self.vector_bits == 128

    @property
    def compiled_for(self) -> str:
        """What decides what its code is, as text: no figure that was measured."""
        told = (self.kind, self.tvm_target, self.isa, self.cores, self.vector_bits, self.vector_registers)
        sizes = () if self.accelerator is None else (self.accelerator,)
        return repr((*told, self.l1d_bytes, self.l2_bytes, *sizes))

    @property
    def host_cores(self) -> int:
        """CPUs that prune, fit and judge for it: its own, or those of this machine where it is another."""
        return self.cores if self.runner == "local" else len(ALLOWED_CPUS)

    def with_threads(self, threads: int) -> Target:
        """The same device used with another number of threads.

        Raises:
            TargetError: more threads than the device has cores, or less than 1.
        """
        if not 1 <= threads <= self.cores:
            raise TargetError(f"target {self.name} has {self.cores} cores; {threads} threads cannot be used")
        return replace(self, threads=threads)


def load_target(name: str | Path) -> Target:
    """A target by name, or by the path of its descriptor (anything that ends in .toml).

    Raises:
        TargetError: unknown, or the descriptor is malformed.
    """
    text = str(name)
    if text.endswith(".toml"):
        return _read(Path(text))
    paths = _descriptors()
    if text not in paths:
        hint = stricttoml.known(text, paths).replace("allowed:", "known:")
        raise TargetError(f"no target {text!r}; {hint}; or give the path of a .toml file")
    return _read(paths[text])


def target_names() -> tuple[str, ...]:
    """Names that `load_target` knows, of shipped targets and the user's, sorted; descriptors may be malformed.

    Raises:
        TargetError: $HWSPARSE_TARGETS names something that is no directory.
    """
    return tuple(_descriptors())


def list_targets() -> tuple[Target, ...]:
    """Every target that has a name, shipped ones and the user's, sorted by name.

    Raises:
        TargetError: a descriptor is malformed.
    """
    return tuple(_read(path) for path in _descriptors().values())


def _sound_targets() -> Iterator[Target]:
    """Every target but those whose descriptor is malformed: they are another matter."""
    for path in _descriptors().values():
        with contextlib.suppress(TargetError):
            yield _read(path)


def parse_target(text: str, where: str) -> Target:
    """Reads a descriptor; `where` begins every error's text.

    Raises:
        TargetError: not TOML, or not exactly a descriptor: says the key and what is allowed.
    """
    try:
        return _target(stricttoml.loads(text))
    except InputError as error:
        raise TargetError(f"{where}: {error}") from None
    except RecursionError:  # dotted keys make tables of any depth
        raise TargetError(f"{where}: nested too deeply") from None


def format_target(target: Target) -> str:
    """The descriptor of a target; `parse_target` reads it back."""
    by_dtype: dict[str, list[str]] = {}
    for pattern, dtype in target.supported:
        by_dtype.setdefault(dtype, []).append(pattern)
    toml = stricttoml.dumps
    lines = [
        f"name = {toml(target.name)}",
        f"kind = {toml(target.kind)}",
        f"description = {toml(target.description)}",
        "",
        "[compile]",
        f"tvm_target = {toml(json.loads(target.tvm_target))}",
        f"isa = {toml(target.isa)}",
        "",
        "[run]",
        f"runner = {toml(target.runner)}",
        f"threads = {target.threads}",
        f"pipelined = {toml(target.pipelined)}",
        "",
        "[hardware]",
        *(f"{key} = {toml(kind(getattr(target, key)))}" for key, kind in _HARDWARE.items()),
        "",
        "[supported]",
        *(f"{dtype} = {toml(patterns)}" for dtype, patterns in by_dtype.items()),
    ]
    if target.core is not None:
        lines += ["", "[core]", *format_core(target.core)]
    if target.accelerator is not None:
        lines += ["", "[accelerator]", *format_accelerator(target.accelerator)]
    return "\n".join(lines) + "\n"


def _target(data: Mapping[str, Any]) -> Target:
    value, only = stricttoml.value, stricttoml.only
    only(data, ("name", "kind", "description", "compile", "run", "hardware", "core", "accelerator", "supported"))
    run = value(data, "run", dict)
    only(run, ("runner", "threads", "pipelined"), "[run] ")
    runner = value(run, "runner", str, "[run] ")
    probed = data.get("hardware") == PROBE
    if probed and runner != "local":
        raise TargetError(
            f'hardware = "{PROBE}" describes this machine, so [run] runner must be "local", not {runner!r}'
        )
    machine_code, figures = _probed() if probed else ({}, _figures(data))
    own = {} if probed and "compile" not in data else value(data, "compile", dict)
    only(own, ("tvm_target", "isa"), "[compile] ")
    code = {**machine_code, **own}
    threads = value(run, "threads", int, "[run] ") if "threads" in run else max(1, figures["cores"] - 1)
    return Target(
        name=value(data, "name", str),
        kind=value(data, "kind", str),
        description=value(data, "description", str),
        tvm_target=_json(value(code, "tvm_target", dict, "[compile] ")),
        runner=runner,
        supported=_supported(value(data, "supported", dict)),
        threads=threads,
        pipelined="pipelined" in run and value(run, "pipelined", bool, "[run] "),
        isa=tuple(value(code, "isa", list, "[compile] ")) if "isa" in code else (),
        core=read_core(value(data, "core", dict)) if "core" in data else None,
        accelerator=read_accelerator(value(data, "accelerator", dict)) if "accelerator" in data else None,
        **figures,
    )


def _probed() -> tuple[dict[str, Any], dict[str, Any]]:
    """What [compile] and [hardware] say of this machine."""
    found = probe_hardware()
    return {key: found.pop(key) for key in ("tvm_target", "isa")}, found


def _figures(data: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(data.get("hardware"), str):
        raise TargetError(f'hardware is a table, or "{PROBE}" for this machine, not {data["hardware"]!r}')
    table = stricttoml.value(data, "hardware", dict)
    stricttoml.only(table, _HARDWARE, "[hardware] ")
    if missing := [key for key in _NEEDED if key not in table]:
        raise TargetError(f"[hardware] is incomplete: {', '.join(missing)} missing")
    return {key: stricttoml.value(table, key, kind, "[hardware] ") for key, kind in _HARDWARE.items() if key in table}


def _supported(table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    stricttoml.only(table, DTYPES, "[supported] ")
    pairs = []
    for dtype in table:
        for text in stricttoml.value(table, dtype, list, "[supported] "):
            try:
                pairs.append((str(parse_pattern(text)), dtype))
            except InputError as error:
                raise TargetError(f"[supported] {dtype}: {error}") from None
    if not any(pattern == "dense" for pattern, _ in pairs):
        raise TargetError("[supported] has no dense pattern; every target runs dense layers")
    return tuple(pairs)


def _json(table: Mapping[str, Any]) -> str:
    try:
        return json.dumps(table, sort_keys=True)
    except TypeError:
        raise TargetError("[compile] tvm_target holds texts, numbers, lists and tables, no dates") from None


def _check_tvm_target(text: str) -> None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TargetError(f"tvm_target is not JSON: {error}") from None
    if not (isinstance(data, dict) and isinstance(data.get("kind"), str) and _writable(data)):
        raise TargetError(
            'tvm_target is a table such as { kind = "llvm", mcpu = "..." }, of texts, integers, truth values, '
            "lists and tables"
        )
    if not isinstance(data.get("mtriple", ""), str):
        raise TargetError("tvm_target's mtriple is a text, such as x86_64-linux-gnu")


def _writable(item: object) -> bool:
    if isinstance(item, dict | list):
        return all(map(_writable, item.values() if isinstance(item, dict) else item))
    return isinstance(item, str | bool) or (isinstance(item, int) and abs(item) <= stricttoml.MAX_INT)


def _descriptors() -> dict[str, Path]:
    """Paths of descriptors by name, sorted; the user's come before shipped ones of the same name."""
    found: dict[str, Path] = {}
    for directory in _directories():
        for path in sorted(directory.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _directories() -> Iterator[Path]:
    for directory in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if directory:
            if not Path(directory).is_dir():
                raise TargetError(f"${PATH_VARIABLE} names {directory}, which is not a directory")
            yield Path(directory)
    yield _shipped()


def _shipped() -> Path:
    """In a wheel the descriptors are package data; in a checkout they are beside the package."""
    package = Path(__file__).parent
    return package / "targets" if (package / "targets").is_dir() else package.parent / "targets"


def reference_directory() -> Path:
    """Where published times of devices are, for estimates."""
    return _shipped() / "reference"


def _read(path: Path) -> Target:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TargetError(f"{path}: cannot be read: not a file")
        if found.st_size > MAX_DESCRIPTOR_BYTES:
            raise TargetError(f"{path}: larger than {MAX_DESCRIPTOR_BYTES} bytes; not a target descriptor")
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise TargetError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    target = parse_target(text, str(path))
    if path.stem != target.name:
        raise TargetError(f"{path}: its name is {target.name!r}; a descriptor's file is called NAME.toml")
    return target
