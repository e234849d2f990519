"""Target descriptors: what a device is, what code for it looks like, and how code on it is timed.

A descriptor is a TOML file; those in `targets/` ship with the package, users keep theirs in the
directories that $HWSPARSE_TARGETS names, or give a path. Unknown keys are errors. A descriptor without a
[hardware] table describes the machine it is loaded on, by `probe`.

Knows neither TVM nor how a runner works.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwsparse.errors import PatternError, TargetError, UnsupportedError
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice
from hwsparse.probe import cpu_flags, probe_hardware

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("cpu", "gpu", "fpga")
# How code on a target is timed; this version can do those in CAN_TIME.
RUNNERS = ("local", "rpc", "cuda", "simulator")
CAN_TIME = ("local",)
DTYPES = ("float32", "float16", "bfloat16", "int8")
MAX_DESCRIPTOR_BYTES = 1 << 20
PATH_VARIABLE = "HWSPARSE_TARGETS"


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
    vector_bits: int = 0  # CPUs: width of a SIMD register
    vector_registers: int = 0
    l1d_bytes: int = 0
    l2_bytes: int = 0
    isa: tuple[str, ...] = ()  # CPU flags that its code needs, as /proc/cpuinfo names them

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.runner not in RUNNERS:
            raise TargetError(f"target {self.name}: kind is one of {', '.join(KINDS)}, runner of {', '.join(RUNNERS)}")
        for field, least in _SIZES:
            if getattr(self, field) < least:
                raise TargetError(f"target {self.name}: {field} must be at least {least}, not {getattr(self, field)}")
        if self.kind == "cpu" and (self.vector_bits not in (128, 256, 512) or self.vector_registers not in (16, 32)):
            raise TargetError(f"target {self.name}: a CPU has 16 or 32 vector registers of 128, 256 or 512 bits")

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

    def require_timing(self) -> None:
        """Refuses a target that cannot be timed from here.

        Raises:
            UnsupportedError: no runner for it in this version, or this machine lacks its instructions.
        """
        if self.runner not in CAN_TIME:
            names = ", ".join(target.name for target in list_targets() if target.runner in CAN_TIME)
            raise UnsupportedError(
                f"target {self.name} is timed by the runner {self.runner!r}, which this version does not have; "
                f"targets that it can time: {names}"
            )
        if missing := sorted(set(self.isa) - cpu_flags()):
            raise UnsupportedError(f"target {self.name} needs {', '.join(missing)}, which this machine's CPU lacks")

    def with_threads(self, threads: int) -> Target:
        """The same device used with another number of threads.

        Raises:
            TargetError: more threads than the device has cores, or less than 1.
        """
        if not 1 <= threads <= self.cores:
            raise TargetError(f"target {self.name} has {self.cores} cores; {threads} threads cannot be used")
        return replace(self, threads=threads)


_SIZES = (
    ("threads", 1),
    ("cores", 1),
    ("memory_bytes", 1),
    ("peak_flops", 1),
    ("bandwidth_bytes_per_s", 1),
    ("l1d_bytes", 0),
    ("l2_bytes", 0),
)


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
        close = difflib.get_close_matches(text, paths, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise TargetError(f"no target {text!r}; {hint}known: {', '.join(paths)}; or give the path of a .toml file")
    return _read(paths[text])


def list_targets() -> tuple[Target, ...]:
    """Every target that has a name, shipped ones and the user's, sorted by name.

    Raises:
        TargetError: a descriptor is malformed.
    """
    return tuple(_read(path) for path in _descriptors().values())


def parse_target(text: str, where: str) -> Target:
    """Reads a descriptor; `where` begins every error's text.

    Raises:
        TargetError: not TOML, or not exactly a descriptor: says the key and what is allowed.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{where}: not TOML: {error}") from None
    _only(data, ("name", "kind", "description", "compile", "run", "hardware", "supported"), where)
    hardware = _table(data, "hardware", where) if "hardware" in data else probe_hardware()
    compile_, run = _table(data, "compile", where), _table(data, "run", where)
    _only(compile_, ("tvm_target", "isa"), f"{where}: [compile]")
    _only(run, ("runner", "threads"), f"{where}: [run]")
    _only(hardware, tuple(_HARDWARE), f"{where}: [hardware]")
    tvm_target = compile_.get("tvm_target", hardware.get("tvm_target"))
    if not isinstance(tvm_target, dict):
        raise TargetError(f'{where}: [compile] tvm_target is a table such as {{ kind = "llvm", mcpu = "..." }}')
    figures = {key: _value(hardware, key, kind, where) for key, kind in _HARDWARE.items() if key in hardware}
    figures.pop("tvm_target", None)
    figures["isa"] = (
        tuple(_value(compile_, "isa", list, where)) if "isa" in compile_ else tuple(hardware.get("isa", ()))
    )
    try:
        return Target(
            name=_value(data, "name", str, where),
            kind=_value(data, "kind", str, where),
            description=_value(data, "description", str, where),
            tvm_target=json.dumps(tvm_target, sort_keys=True),
            runner=_value(run, "runner", str, where),
            threads=_value(run, "threads", int, where) if "threads" in run else max(1, figures.get("cores", 1) - 1),
            supported=_supported(_table(data, "supported", where), where),
            **figures,
        )
    except TargetError as error:
        raise TargetError(f"{where}: {error}") from None
    except TypeError as error:
        raise TargetError(f"{where}: [hardware] is incomplete: {str(error).split('()', 1)[-1].strip()}") from None


def format_target(target: Target) -> str:
    """The descriptor of a target; `parse_target` reads it back."""
    tvm_target = ", ".join(f"{_key(key)} = {_toml(value)}" for key, value in json.loads(target.tvm_target).items())
    by_dtype: dict[str, list[str]] = {}
    for pattern, dtype in target.supported:
        by_dtype.setdefault(dtype, []).append(pattern)
    lines = [
        f"name = {_toml(target.name)}",
        f"kind = {_toml(target.kind)}",
        f"description = {_toml(target.description)}",
        "",
        "[compile]",
        f"tvm_target = {{ {tvm_target} }}",
        f"isa = {_toml(list(target.isa))}",
        "",
        "[run]",
        f"runner = {_toml(target.runner)}",
        f"threads = {target.threads}",
        "",
        "[hardware]",
        *(f"{key} = {_toml(getattr(target, key))}" for key in _HARDWARE if key not in ("isa", "tvm_target")),
        "",
        "[supported]",
        *(f"{dtype} = {_toml(patterns)}" for dtype, patterns in by_dtype.items()),
    ]
    return "\n".join(lines) + "\n"


_HARDWARE: dict[str, type] = {
    "cores": int,
    "memory_bytes": int,
    "peak_flops": float,
    "bandwidth_bytes_per_s": float,
    "vector_bits": int,
    "vector_registers": int,
    "l1d_bytes": int,
    "l2_bytes": int,
    "isa": list,  # probed descriptors only: a written one has it in [compile]
    "tvm_target": dict,  # likewise
}


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
            yield Path(directory)
    package = Path(__file__).parent
    # In a wheel the descriptors are package data; in a checkout they are beside the package.
    yield package / "targets" if (package / "targets").is_dir() else package.parent / "targets"


def _read(path: Path) -> Target:
    try:
        if path.stat().st_size > MAX_DESCRIPTOR_BYTES:
            raise TargetError(f"{path}: larger than {MAX_DESCRIPTOR_BYTES} bytes; not a target descriptor")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    target = parse_target(text, str(path))
    if path.stem != target.name:
        raise TargetError(f"{path}: its name is {target.name!r}; a descriptor's file is called NAME.toml")
    return target


def _supported(table: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    _only(table, DTYPES, f"{where}: [supported]")
    pairs = []
    for dtype in table:
        for text in _value(table, dtype, list, where):
            try:
                pairs.append((str(parse_pattern(str(text))), dtype))
            except PatternError as error:
                raise TargetError(f"{where}: [supported] {dtype}: {error}") from None
    if not any(pattern == "dense" for pattern, _ in pairs):
        raise TargetError(f"{where}: [supported] has no dense pattern; every target runs dense layers")
    return tuple(pairs)


def _only(table: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise TargetError(f"{where}: unknown key {key!r}{hint}; allowed: {', '.join(allowed)}")


def _table(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    return dict(_value(data, key, dict, where))


def _value(table: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in table:
        raise TargetError(f"{where}: {key} is missing")
    value = table[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise TargetError(f"{where}: {key} must be of type {_TOML_TYPES[kind]}, not {value!r}")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise TargetError(f"{where}: {key} must be a list of texts")
    return value


_TOML_TYPES = {str: "text", int: "integer", float: "number", list: "list", dict: "table"}


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
