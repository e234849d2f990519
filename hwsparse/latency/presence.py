"""What a board tells of itself when a session begins, and whether code can run there.

Knows no network and no session.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import hwsparse
from hwsparse.latency.cores import shown
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.probe import cpu_flags, machine
from hwsparse.target import Target

BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Presence:
    """A board as it is now."""

    device: Device
    cpus: tuple[int, ...]  # that run code
    flags: tuple[str, ...]  # what its CPU can do, as /proc/cpuinfo names it
    tvm: str  # version of the runtime
    hwsparse: str  # version
    boot: str  # another one after each start of the system; empty: it does not tell
    crashes: int  # of sessions, since it was offered as a board
    last_crash: str  # what became of the process of the last of them

    @classmethod
    def here(cls, cpus: Collection[int]) -> Presence:
        """This machine as a board, whose code runs on these CPUs."""
        device, tvm = Device.probe(cpus=cpus), _version("apache-tvm")
        try:
            started = BOOT.read_text().strip()
        except OSError:
            started = ""
        return cls(
            replace(device, system=f"{device.system}, TVM {tvm}"),
            tuple(sorted(cpus)), tuple(sorted(cpu_flags())), tvm, hwsparse.__version__, started, 0, "",
        )  # fmt: skip

    def how_ended(self, before: Presence) -> str:
        """Why a session was lost of which the board told this before, as it tells itself now; empty: unknown."""
        if self.boot != before.boot:
            return "the board started anew: look at its power supply, its temperature and its memory"
        if self.crashes > before.crashes and self.last_crash:
            return f"its process on the board was {self.last_crash}"
        return ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What code asks for of the machine that is to run it."""

    target: str  # the name of the target that it was made for
    machine: str  # empty: that of this machine
    isa: tuple[str, ...]
    threads: int
    tvm: str  # version of what compiled it

    @classmethod
    def of(cls, target: Target, toolchain: Toolchain) -> Needs:
        """Of code that a toolchain makes for a target."""
        return cls.of_code(target.name, target.tvm_target, target.isa, target.threads, toolchain.tvm)

    @classmethod
    def of_code(cls, name: str, tvm_target: str, isa: tuple[str, ...], threads: int, tvm: str) -> Needs:
        """Of code for a TVM target, given as JSON text."""
        triple = str(json.loads(tvm_target).get("mtriple", ""))
        return cls(name, machine(triple.partition("-")[0]) if triple else "", isa, threads, tvm)

    def unmet(self, board: Presence) -> str | None:
        """Why such code cannot run on a board, and what to do about it; None: it can."""
        wanted, found = self.machine or machine(platform.machine()), machine(board.device.machine)
        if wanted != found:
            return (
                f"is {_article(found)} {found}, and target {self.target} is code for {wanted}: register it under the "
                "key of a target of its own kind"
            )
        if missing := sorted(set(self.isa) - set(board.flags)):
            return (
                f"lacks {', '.join(missing)}, which code for target {self.target} uses: describe it by a target of its "
                "own, whose isa and tvm_target say what it has"
            )
        if self.threads > len(board.cpus):
            return (
                f"runs code on its CPUs {shown(board.cpus)} only, and target {self.target} takes {self.threads} "
                f"threads: give --threads {len(board.cpus)} here, or more --cores to `hwsparse device serve` there"
            )
        if _release(self.tvm) != _release(board.tvm):
            return (
                f"runs code by TVM {board.tvm}, and code is made by TVM {self.tvm} here: install the same there "
                f"(pip install apache-tvm=={self.tvm}), and start `hwsparse device serve` again"
            )
        return None


def _article(name: str) -> str:
    return "an" if name[:1] in "aeix" else "a"


def _release(version: str) -> str:
    """A version without what leaves its interfaces as they are: 0.27.0.post1 is 0.27.0 built anew."""
    return re.split(r"\.post|\+", version)[0]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
