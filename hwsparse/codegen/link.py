"""Links object files into a shared library, with or without a system compiler.

A system compiler is used when it builds for the target; otherwise PyPI's `ziglang`, which links for
x86-64 and aarch64 alike (its first link of a target takes some 15 seconds, later ones are instant).
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hwsparse.errors import CompileError, one_line, writing

LINK_TIMEOUT_S = 300


def link(output: str, objects: Sequence[str], triple: str) -> None:
    """Links `objects` into the shared library `output` for an LLVM target triple ("" is this machine).

    Raises:
        CompileError: no linker is to be had, or it refused.
        StorageError: there is no room for `output`.
    """
    command = [*_driver(triple), "-shared", "-fPIC", "-o", output, *objects]
    with writing(Path(output)):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LINK_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompileError(f"linking {output} failed: {one_line(error)}") from None
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit status {done.returncode}"
            raise CompileError(f"linking {output} failed: {one_line(said)}")


def _driver(triple: str) -> list[str]:
    architecture = triple.split("-")[0] or platform.machine()
    native = architecture == platform.machine()
    if native and (compiler := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return [compiler]
    if importlib.util.find_spec("ziglang") is None:
        raise CompileError("no C compiler on PATH to link with; install one, or: pip install ziglang")
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu"]
