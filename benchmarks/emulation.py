"""Compiled networks for Arm, run on this machine under qemu's emulation of its instructions.

What comes out is what a device computes; how long it takes says nothing about any device, and is told nowhere.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.arm_root import PROGRAM, SITE, default_root, is_complete
from hwsparse.codegen.library import DESCRIPTION, LIBRARY, WEIGHTS
from hwsparse.errors import ExecutionError, InputError, one_line

QEMU = "qemu-aarch64"
ANY_CPU = "max"  # qemu's word for one that has every instruction it knows
PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Emulator:
    """`qemu` emulates `cpus`, by names that LLVM gives them too, in a root of arm64 files."""

    qemu: str
    root: Path
    cpus: frozenset[str]

    @classmethod
    def find(cls, root: Path | None = None) -> Emulator:
        """What is installed here.

        Raises:
            InputError: qemu is not, or the root is not there: says what to do.
        """
        qemu = shutil.which(QEMU)
        if qemu is None:
            raise InputError(
                f"{QEMU} is not on PATH: install qemu's user emulation, in Debian by: apt-get install qemu-user"
            )
        root = root or default_root()
        if not is_complete(root):
            raise InputError(f"{root}: no arm64 root of this version: make it by: python -m benchmarks.arm_root {root}")
        known = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, timeout=PATIENCE_S)
        return cls(qemu, root, frozenset(known.stdout.split()))

    def run(
        self,
        library: Path,
        inputs: Mapping[str, np.ndarray],
        *,
        cpu: str = ANY_CPU,
        threads: int = 1,
        in_python: bool = False,
    ) -> dict[str, np.ndarray]:
        """One inference of a compiled network by the program that devices run it with.

        Args:
            library: where library.so, weights.safetensors and library.json are.
            cpu: that is emulated; any, where qemu does not know it.
            in_python: by run.py in place of run.cc.

        Raises:
            ExecutionError: the program failed: an instruction that the CPU does not have, say.
        """
        with tempfile.TemporaryDirectory() as scratch:
            given, wanted = Path(scratch) / "inputs.safetensors", Path(scratch) / "outputs.safetensors"
            save_file({name: np.ascontiguousarray(value) for name, value in inputs.items()}, given)
            place = Path(scratch) / "library"
            place.mkdir()
            runtime = (self.root / PROGRAM).glob("*.so")
            for path in (*runtime, *(library / name for name in (LIBRARY, WEIGHTS, DESCRIPTION))):
                (place / path.name).symlink_to(path.absolute())
            self._call(place, given, wanted, cpu if cpu in self.cpus else ANY_CPU, threads, in_python)
            return load_file(wanted)

    def _call(self, library: Path, given: Path, wanted: Path, cpu: str, threads: int, in_python: bool) -> None:
        place = self.root / PROGRAM
        python = min((self.root / "usr/bin").glob("python3.*[0-9]"), default=Path("python3"))
        program = [str(python), str(place / "run.py")] if in_python else [str(place / "run")]
        command = [self.qemu, "-cpu", cpu, "-L", str(self.root), "-E", f"PYTHONPATH={self.root / SITE}", *program]
        command += [str(library), str(given), str(wanted), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExecutionError(f"{library} under emulation: {one_line(error)}") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ExecutionError(f"{library} under emulation of {cpu}: {one_line(said[-1])}")
