"""What a measurement was made on, and what made the code: others' records are not used.

Knows nothing of workloads or samples. Does not import TVM: the kernels' version is passed in.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hwsparse import strictjson
from hwsparse.accelerator import COUNTING_VERSION
from hwsparse.latency.cores import used_cpus
from hwsparse.probe import CACHES, read_caches
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Device:
    """The machine that ran: what decides how fast code is, and the system it ran under."""

    machine: str  # "x86_64"
    cpu: str  # model name with family, model and stepping: virtual machines share names
    cores: int  # logical CPUs
    isa: str  # digest of the CPU's feature flags
    caches: tuple[str, ...]  # of one core: "L1 Data 48K"
    clock: str  # who sets it, and whether it may exceed the nominal: "performance, boost 1"
    system: str  # operating system and kernel
    used: str = ""  # of a board, the CPUs that run code, and how fast they may be: "4-7 at 2400 MHz"

    @property
    def digest(self) -> str:
        """Of the hardware alone: a kernel update does not make another device."""
        told = strictjson.encode(replace(self, system=""))
        if not self.used:  # as machines were known before there were boards
            del told["used"]
        return hashlib.sha256(strictjson.canonical(told).encode()).hexdigest()

    @classmethod
    def probe(cls, proc: Path = Path("/proc"), sys: Path = Path("/sys"), cpus: Collection[int] = frozenset()) -> Device:
        """Describes this machine; where the system does not tell (no /proc, no /sys), fields stay empty.

        Args:
            cpus: those that run code, of a machine whose CPUs are of several kinds, or which runs on some only. It is
                described by the first of them; without them by the first of all.
        """
        first = min(cpus, default=0)
        info = _cpuinfo(proc / "cpuinfo", first if cpus else None)
        named = (
            "model name",
            "cpu family",
            "model",
            "stepping",
            "CPU implementer",
            "CPU part",
            "CPU revision",
        )
        flags = sorted((info.get("flags") or info.get("Features") or "").split())
        return cls(
            machine=platform.machine(),
            cpu=" ".join(info[name] for name in named if name in info) or platform.processor(),
            cores=os.cpu_count() or 1,
            isa=hashlib.sha256(" ".join(flags).encode()).hexdigest()[:16] if flags else "",
            caches=tuple(
                f"L{level} {kind} {size}"
                for level, kind, size in read_caches(sys / CACHES.replace("cpu0", f"cpu{first}"))
            ),
            clock=_clock_policy(sys / "devices/system/cpu", first),
            system=f"{platform.system()} {platform.release()}",
            used=used_cpus(cpus, sys) if cpus else "",
        )


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What turned a workload into machine code: the same workload and toolchain give the same code."""

    kernels: str  # version of hwsparse's kernels
    tvm: str
    target: str  # digest of all that the target's descriptor tells the code generator

    @classmethod
    def of(cls, target: Target, kernels: str) -> Toolchain:
        """The installed toolchain, generating code for `target` with kernels of version `kernels`."""
        told = (
            target.tvm_target,
            target.vector_bits,
            target.vector_registers,
            target.l1d_bytes,
            target.l2_bytes,
        )
        simulated = () if target.accelerator is None else (target.accelerator, target.pipelined, COUNTING_VERSION)
        digest = hashlib.sha256(repr((told, target.isa, *simulated)).encode()).hexdigest()[:16]
        return cls(kernels=kernels, tvm=_version("apache-tvm"), target=digest)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _clock_policy(cpus: Path, number: int = 0) -> str:
    """Of one CPU; empty where the system does not tell, as in most virtual machines."""
    governor = _text(cpus / f"cpu{number}/cpufreq/scaling_governor")
    boost = _text(cpus / "cpufreq/boost")
    no_turbo = _text(cpus / "intel_pstate/no_turbo")
    if not boost and no_turbo:
        boost = "0" if no_turbo == "1" else "1"
    return ", ".join(filter(None, (governor, boost and f"boost {boost}")))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(path: Path, number: int | None = None) -> Mapping[str, str]:
    """A processor's entries of /proc/cpuinfo: the first one's, or those of the number, where it is told of."""
    try:
        parts = path.read_text(errors="replace").split("\n\n")
    except OSError:
        return {}
    each = [_entries(part) for part in parts]
    return next((info for info in each if number is not None and info.get("processor") == str(number)), each[0])


def _entries(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
