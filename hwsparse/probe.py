"""What this machine is: cores, instructions, caches, and its measured peak and bandwidth.

The two measured figures take two seconds; they are kept in the user's cache directory until the
processor changes or they are measured again. Knows nothing of targets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

# Widest first: (LLVM's processor name, vector bits, vector registers, flags its code needs). A machine has
# a level when it has every flag of it: some have AVX-512 without the parts that x86-64-v4 takes for granted.
X86_LEVELS = (
    ("x86-64-v4", 512, 32, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", 256, 16, ("avx2", "fma", "bmi2")),
)
# What LLVM is told of beyond a level, by the flag of it: what multiplies words, in vectors of so many bits.
X86_FEATURES = {
    512: {"avx512_vnni": "+avx512vnni", "avx512_bf16": "+avx512bf16"},
    256: {"avx_vnni": "+avxvnni"},
}
ARM_FEATURES = {"asimddp": "+dotprod", "i8mm": "+i8mm"}
SGEMM_SIZE = 768
COPY_BYTES = 64 << 20
# How long short runs go on for one figure: beside other work, some of them have the machine to themselves.
MEASURE_S = 1.0
LARGE_CACHE_BYTES = 64 << 20  # where the system does not tell
# CPUs that this process may use, as it was started: TVM later pins the thread that loads a library to one.
CACHES = "devices/system/cpu/cpu0/cache"  # of the first CPU, below /sys
ALLOWED_CPUS = (
    frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))
)


def probe_hardware(*, again: bool = False) -> dict[str, Any]:
    """The [hardware] table of this machine, with `isa` and `tvm_target`, as a descriptor has them.

    Args:
        again: measures peak and bandwidth also if they are known.
    """
    cores = len(ALLOWED_CPUS)
    described = {"cores": cores, "memory_bytes": _memory_bytes(), **_instructions(cores), **_cache_bytes(read_caches())}
    identity = json.dumps([described, platform.processor(), _cpu_field("model name")], sort_keys=True)
    return {**described, **_measured(hashlib.sha256(identity.encode()).hexdigest(), cores, again)}


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this machine's CPU, as /proc/cpuinfo names them; empty where it does not tell."""
    return frozenset((_cpu_field("flags") or _cpu_field("Features")).split())


def cache_directory() -> Path | None:
    """Where this user's measurements are kept; None for a user without a home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwsparse"
    except RuntimeError:  # the system does not know the user
        return None


def machine(name: str = "") -> str:
    """The instruction set architecture as LLVM names it: this machine's, or the one given by another name."""
    name = name or platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name)


def _instructions(cores: int) -> dict[str, Any]:
    flags = cpu_flags()
    if machine() == "aarch64":
        return _code({"mtriple": "aarch64-linux-gnu"}, cores, (128, 32), (), flags, ARM_FEATURES)
    for cpu, bits, registers, needed in X86_LEVELS:
        if flags.issuperset(needed):
            level = {"mtriple": "x86_64-linux-gnu", "mcpu": cpu}
            return _code(level, cores, (bits, registers), needed, flags, X86_FEATURES[bits])
    return _code({"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}, cores, (128, 16), (), flags, {})


def _code(
    level: dict[str, str],
    cores: int,
    vectors: tuple[int, int],
    needed: tuple[str, ...],
    flags: frozenset[str],
    features: dict[str, str],
) -> dict[str, Any]:
    """Of code for a level, with `vectors` of so many bits in so many registers, and for `features` that there are."""
    more = [flag for flag in features if flag in flags]
    told = {"mattr": [features[flag] for flag in more]} if more else {}
    target = {"kind": "llvm", **level, "num-cores": cores, **told}
    return {"vector_bits": vectors[0], "vector_registers": vectors[1], "isa": [*needed, *more], "tvm_target": target}


def read_caches(directory: Path = Path("/sys") / CACHES) -> tuple[tuple[str, str, str], ...]:
    """Caches of one core as the system tells them: level, type and size, as ("1", "Data", "48K")."""
    found = []
    for index in sorted(directory.glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            found.append((level, kind, size))
    return tuple(found)


def last_cache_bytes(caches: tuple[tuple[str, str, str], ...] | None = None) -> int:
    """The size of the largest cache that a core of this machine reads from; `caches` as `read_caches` gives them."""
    sizes = [_bytes(size) for _, _, size in (read_caches() if caches is None else caches)]
    return max(sizes, default=0) or LARGE_CACHE_BYTES


def _cache_bytes(caches: tuple[tuple[str, str, str], ...]) -> dict[str, int]:
    found = {"l1d_bytes": 32 << 10, "l2_bytes": 256 << 10}  # the least that current CPUs have
    keys = {("1", "Data"): "l1d_bytes", ("2", "Unified"): "l2_bytes"}
    for level, kind, size in caches:
        if (level, kind) in keys and _bytes(size):
            found[keys[level, kind]] = _bytes(size)
    return found


def _bytes(size: str) -> int:
    """Of a cache, as the system writes it: 48K; 0 if that is no size."""
    match = re.fullmatch(r"(\d+)([KM]?)", size)
    return int(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[match[2]] if match else 0


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_field(name: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _measured(identity: str, cores: int, again: bool) -> dict[str, float]:
    """Peak and bandwidth, from the cache if this processor was measured before, and is not to be again."""
    home = cache_directory()
    if home is None:
        return _measure(cores)
    path = home / f"probe-{identity[:16]}.json"
    # Whatever is wrong with the file, it is made anew: ArithmeticError is an integer that no float holds.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        kept = json.loads(path.read_text())
        figures = {key: float(kept[key]) for key in ("peak_flops", "bandwidth_bytes_per_s")}
        if not again and all(1 <= value < math.inf for value in figures.values()):
            return figures
    figures = _measure(cores)
    with contextlib.suppress(OSError):  # a home that cannot be written to: measured again next time
        home.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(figures))
        os.replace(scratch, path)
    return figures


def _measure(cores: int) -> dict[str, float]:
    return {"peak_flops": _peak_flops(), "bandwidth_bytes_per_s": _bandwidth(cores)}


def _peak_flops() -> float:
    """float32 operations a second in numpy's matrix product, all cores: what dense code can reach."""
    a = np.ones((SGEMM_SIZE, SGEMM_SIZE), np.float32)
    out = np.empty_like(a)
    return 2 * SGEMM_SIZE**3 / _best(lambda: np.matmul(a, a, out=out))


def _bandwidth(cores: int) -> float:
    """Bytes a second that all cores together read and write in a copy much larger than caches."""
    sources = [np.ones(COPY_BYTES // 4 // cores, np.float32) for _ in range(cores)]
    copies = [np.empty_like(source) for source in sources]
    with ThreadPoolExecutor(cores) as pool:
        return 2 * COPY_BYTES / _best(lambda: list(pool.map(np.copyto, copies, sources)))


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs: the others met something else that ran."""
    best, begun = math.inf, time.perf_counter()
    while (start := time.perf_counter()) < begun + MEASURE_S:
        work()
        best = min(best, time.perf_counter() - start)
    return best
