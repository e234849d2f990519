"""`python -m benchmarks.arm_root [DIR]`: a root of arm64 files to run compiled networks in, under qemu's emulation.

Made of Debian's arm64 packages, unpacked and not installed (a C library, Python), and of PyPI's wheels for aarch64
(TVM's runtime, numpy). Nothing of this machine is changed but DIR; apt-get, dpkg-deb and pip are needed, and no rights.
The program that runs networks is compiled for aarch64 by `ziglang`, which takes some minutes the first time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from hwsparse.deploy.bundle import FOLDER, GLIBC, PROGRAMS, RUNTIME, build_program, runtime
from hwsparse.elf import SharedLibrary
from hwsparse.errors import ExecutionError, HwsparseError, InputError, one_line
from hwsparse.probe import cache_directory

VARIABLE = "HWSPARSE_ARM_ROOT"
PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "python3-minimal", "libpython3-stdlib")
# Where in a root, beside Debian's files: programs and TVM's runtime; Python packages.
PROGRAM, SITE = Path("opt/hwsparse"), Path("opt/site")
STEP_S = 900


def default_root() -> Path:
    """Where a root is kept: what $HWSPARSE_ARM_ROOT names, or a directory of this user's cache.

    Raises:
        InputError: the user has no home, nor the variable a value.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = cache_directory()
    if home is None:
        raise InputError(f"this user has no home: name a directory for arm64 files by ${VARIABLE}")
    return home / "arm64-root"


def is_complete(root: Path) -> bool:
    """Whether a root has all that networks need, of the versions of TVM that are installed here."""
    return (root / PROGRAM / "run").is_file() and (root / PROGRAM / "versions").read_text() == _versions()


def make_root(root: Path) -> None:
    """Makes a root, in place of what is at `root`, which must be one or nothing, when it is whole.

    Raises:
        InputError: `root` holds something else.
        ExecutionError: a package cannot be had, or a tool for it.
    """
    if root.exists() and any(root.iterdir()) and not (root / PROGRAM).is_dir():
        raise InputError(f"{root}: holds something else than an arm64 root; name another directory")
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _fill(fresh)
        shutil.rmtree(root, ignore_errors=True)
        fresh.rename(root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fill(root: Path) -> None:
    (root / PROGRAM).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        for package in _debian_packages(Path(scratch)):
            _done(["dpkg-deb", "-x", str(package), str(root)])
        for wheel in _wheels(Path(scratch), _python_version(root)):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root / SITE)
    for name, content in runtime(SharedLibrary("aarch64", (), ())).items():
        (root / PROGRAM / name).write_bytes(content)
    for name in PROGRAMS:
        shutil.copyfile(FOLDER / name, root / PROGRAM / name)
    build_program(root / PROGRAM, "aarch64")
    (root / PROGRAM / "versions").write_text(_versions())


def _versions() -> str:
    """What makes a root out of date: other programs, or another runtime."""
    programs = b"".join((FOLDER / name).read_bytes() for name in PROGRAMS)
    return repr((hashlib.sha256(programs).hexdigest(), *map(importlib.metadata.version, RUNTIME.values())))


def _debian_packages(scratch: Path) -> list[Path]:
    """Downloads packages and all that they depend on, with lists and a cache of our own."""
    for part in ("lists/partial", "archives/partial"):
        (scratch / part).mkdir(parents=True)
    (scratch / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Install-Recommends": "false",
        "Dir::State::lists": scratch / "lists", "Dir::State::status": scratch / "status",
        "Dir::Cache::archives": scratch / "archives", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "", "Debug::NoLocking": "true", "Dir::Log": scratch,
    }  # fmt: skip
    apt = ["apt-get", "-q", "-y", *(f"-o{key}={value}" for key, value in settings.items())]
    _done([*apt, "update"])
    _done([*apt, "--download-only", "install", *PACKAGES])
    return sorted((scratch / "archives").glob("*.deb"))


def _python_version(root: Path) -> str:
    """Of Debian's Python, as in "3.11"."""
    return min(path.name.removeprefix("python") for path in (root / "usr/bin").glob("python3.*[0-9]"))


def _wheels(scratch: Path, python: str) -> list[Path]:
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("apache-tvm-ffi", "numpy")]
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in GLIBC]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    _done([*pip, *platforms, f"--python-version={python}", f"--dest={scratch}", *wanted])
    return sorted(scratch.glob("*.whl"))


def _done(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExecutionError(f"an arm64 root needs {command[0]}: {one_line(error)}") from None
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        said = next((line for line in told if line.startswith(("E:", "ERROR"))), told[-1])
        raise ExecutionError(f"an arm64 root cannot be made: {Path(command[0]).name} says: {one_line(said)}")


def main() -> int:
    """Makes the root that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm_root", description=__doc__)
    parser.add_argument(
        "root", type=Path, nargs="?", help=f"by default ${VARIABLE}, or a directory of this user's cache"
    )
    try:
        root = parser.parse_args().root or default_root()
        make_root(root)
    except HwsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{root} is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
