"""What a measurement was made on, and what made the code: others' records are not used.

Knows nothing of workloads or samples. Does not import TVM: the kernels' version is passed in.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hwsparse import strictjson
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

    @property
    def digest(self) -> str:
        """Of the hardware alone: a kernel update does not make another device."""
        return hashlib.sha256(strictjson.dumps(replace(self, system="")).encode()).hexdigest()

    @classmethod
    def probe(cls, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Device:
        """Describes this machine; where the system does not tell (no /proc, no /sys), fields stay empty."""
        info = _cpuinfo(proc / "cpuinfo")
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
            caches=tuple(f"L{level} {kind} {size}" for level, kind, size in read_caches(sys / CACHES)),
            clock=_clock_policy(sys / "devices/system/cpu"),
            system=f"{platform.system()} {platform.release()}",
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
        digest = hashlib.sha256(repr((told, target.isa)).encode()).hexdigest()[:16]
        return cls(kernels=kernels, tvm=_version("apache-tvm"), target=digest)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _clock_policy(cpus: Path) -> str:
    """Empty where the system does not tell, as in most virtual machines."""
    governor = _text(cpus / "cpu0/cpufreq/scaling_governor")
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


def _cpuinfo(path: Path) -> Mapping[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    try:
        first = path.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
