"""Links object files into a shared library, with or without a system compiler.

A system compiler is used when it builds for the target; otherwise PyPI's `ziglang`, which links for
x86-64 and aarch64 alike (its first link of a target takes some 15 seconds, later ones are instant).

Android's C library comes with none of them, nor is anything of it needed but its name: code for Android is linked with
stand-ins for libc.so and libm.so that hold nothing, and finds what it calls by name where it is loaded.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hwsparse.errors import CompileError, one_line, writing

LINK_TIMEOUT_S = 300
ANDROID = ("libm.so", "libc.so")


def link(output: str, objects: Sequence[str], triple: str) -> None:
    """Links `objects` into the shared library `output` for an LLVM target triple ("" is this machine).

    Raises:
        CompileError: no linker is to be had, or it refused.
        StorageError: there is no room for `output`.
    """
    with writing(Path(output)):
        if not is_android(triple):
            _run([*_driver(triple), *_SHARED, output, *objects], output)
            return
        with tempfile.TemporaryDirectory() as scratch:
            driver, stand_ins = _android(triple), [str(Path(scratch) / name) for name in ANDROID]
            (nothing := Path(scratch) / "nothing.c").touch()
            for path, name in zip(stand_ins, ANDROID, strict=True):
                _run([*driver, f"-Wl,-soname,{name}", *_SHARED, path, str(nothing)], output)
            _run([*driver, *_SHARED, output, *objects, "-Wl,--no-as-needed", *stand_ins], output)


def is_android(triple: str) -> bool:
    """Whether code for an LLVM target triple is Android's."""
    return "-android" in triple


_SHARED = ("-shared", "-fPIC", "-o")


def _run(command: Sequence[str], output: str) -> None:
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
    return [*_zig(), "-target", f"{architecture}-linux-gnu"]


def _android(triple: str) -> list[str]:
    return [*_zig(), "-target", f"{triple.split('-')[0]}-linux-android", "-nostdlib"]


def _zig() -> list[str]:
    if importlib.util.find_spec("ziglang") is None:
        raise CompileError("no C compiler on PATH to link with; install one, or: pip install ziglang")
    return [sys.executable, "-m", "ziglang", "cc"]
