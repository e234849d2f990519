"""A folder with all that a device needs to run a compiled network: the network, TVM's small runtime, and two programs.

The runtime is libtvm_runtime.so and libtvm_ffi.so, 5 MB, of the version that is installed here: this machine's where
the device is of its kind, otherwise from the wheels that PyPI has for Linux on x86-64 and aarch64. For Android there
are none: its folder holds no runtime.

Knows nothing of what the network computes.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from hwsparse.artifact.directory import REQUIRED, fresh_directory
from hwsparse.elf import SharedLibrary, read_shared_library
from hwsparse.errors import ArtifactError, CompileError, UnsupportedError, one_line
from hwsparse.probe import machine

# Files of the runtime, and the packages that they are of.
RUNTIME = {"libtvm_runtime.so": "apache-tvm", "libtvm_ffi.so": "apache-tvm-ffi"}
DESCRIPTION = "library.json"
FOLDER = Path(__file__).parent
PROGRAMS = ("run.py", "run.cc")
GLIBC = ("2_28", "2_27", "2_24", "2_17")  # that PyPI's wheels are built for
DOWNLOAD_S, BUILD_S = 600, 1200


def bundle(library: Path, directory: Path, wheels: Path | None = None, build: bool = False) -> None:
    """Writes the folder `directory` for the device that `library` was compiled for; it appears whole or not at all.

    Args:
        library: where library.so, weights.safetensors and library.json are.
        wheels: holds wheels of apache-tvm and apache-tvm-ffi for the device; else they are downloaded, if need be.
        build: compiles run.cc for the device too, by `ziglang`, which takes a minute or more the first time.

    Raises:
        ArtifactError: `library` is none, or `directory` is in the way or cannot be written.
        UnsupportedError: there is no runtime for such a device, or it is a simulated one.
        CompileError: the runtime cannot be had, or run.cc not be compiled.
    """
    made_for = read_shared_library(library / "library.so")
    if _is_simulated(library / DESCRIPTION):
        raise UnsupportedError(
            f"{library} is compiled for a simulated accelerator, which hwsparse runs, and no device: load it as README "
            "says, or compile it for a device"
        )
    if build and made_for.of_android:
        raise UnsupportedError("run.cc cannot be compiled for Android here: that needs Android's NDK")
    with fresh_directory(directory) as scratch:
        for name in REQUIRED:
            shutil.copyfile(library / name, scratch / name)
        for name in PROGRAMS:
            shutil.copyfile(FOLDER / name, scratch / name)
        if not made_for.of_android:
            for name, content in runtime(made_for, wheels).items():
                (scratch / name).write_bytes(content)
        if build:
            build_program(scratch, made_for.machine)
        (scratch / "README.txt").write_text(_told(made_for, build))


def _is_simulated(description: Path) -> bool:
    try:
        return "accelerator" in json.loads(description.read_text())
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{description} tells of no compiled library: {one_line(error)}") from None


def runtime(made_for: SharedLibrary, wheels: Path | None = None) -> Mapping[str, bytes]:
    """TVM's runtime for a kind of machine with Linux: contents by file name."""
    if made_for.machine not in ("x86_64", "aarch64"):
        raise UnsupportedError(f"TVM's packages have no runtime for {made_for.machine}: build it from TVM's sources")
    if wheels is None and made_for.machine == machine():
        return {name: _installed(name, package).read_bytes() for name, package in RUNTIME.items()}
    with tempfile.TemporaryDirectory() as scratch:
        place = wheels or _download(made_for.machine, Path(scratch))
        return {name: _in_wheel(place, name, package, made_for.machine) for name, package in RUNTIME.items()}


def build_program(directory: Path, machine: str) -> None:
    """Compiles run.cc, beside which the runtime is, into `run`."""
    headers = [_installed(f"tvm_ffi/{name}", "apache-tvm-ffi") for name in ("include", "3rdparty/dlpack/include")]
    command = [
        sys.executable, "-m", "ziglang", "c++", "-target", f"{machine}-linux-gnu", "-std=c++17", "-O2", "-s",
        str(directory / "run.cc"), "-o", str(directory / "run"), *(f"-I{path}" for path in headers), f"-L{directory}",
        "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-Wl,-rpath,$ORIGIN",
    ]  # fmt: skip
    _done(command, BUILD_S, "run.cc cannot be compiled")


def _installed(name: str, package: str) -> Path:
    """A file or folder of an installed package, by the end of its path."""
    for file in importlib.metadata.files(package) or ():
        for place in (file, *file.parents):
            if f"/{place}".endswith(f"/{name}"):
                return Path(str(importlib.metadata.distribution(package).locate_file(place)))
    raise CompileError(f"{package}, as it is installed here, has no {name}: pip install --force-reinstall {package}")


def _download(machine: str, directory: Path) -> Path:
    tags = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC]
    wanted = [f"{package}=={importlib.metadata.version(package)}" for package in RUNTIME.values()]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary=:all:", *tags, f"--dest={directory}", *wanted]
    way_out = f"or put their wheels for {machine} in a folder and name it with --wheels"
    _done(command, DOWNLOAD_S, f"cannot download {' and '.join(wanted)}", way_out)
    return directory


def _in_wheel(directory: Path, name: str, package: str, machine: str) -> bytes:
    version = importlib.metadata.version(package)
    wheels = sorted(directory.glob(f"{package.replace('-', '_')}-{version}-*{machine}.whl"))
    if not wheels:
        raise CompileError(f"{directory}: no wheel of {package} {version} for {machine}")
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(next(each for each in archive.namelist() if each.endswith(f"/{name}")))
    except (OSError, zipfile.BadZipFile, StopIteration):
        raise CompileError(f"{wheels[0]}: no wheel, or one without {name}") from None


def _done(command: list[str], limit_s: float, failure: str, way_out: str = "") -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{failure}: {one_line(error)}; {way_out}".rstrip("; ")) from None
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line.lower()), done.stderr)
        raise CompileError(f"{failure}: {one_line(said)}; {way_out}".rstrip("; "))


def _told(made_for: SharedLibrary, built: bool) -> str:
    """README.txt."""
    tvm, ffi = (importlib.metadata.version(package) for package in RUNTIME.values())
    if made_for.of_android:
        return _ANDROID.format(machine=made_for.machine, tvm=tvm)
    compiled = "./run . inputs.safetensors outputs.safetensors    was compiled already\n\n" if built else ""
    return _LINUX.format(machine=made_for.machine, tvm=tvm, ffi=ffi, compiled=compiled)


_ANDROID = """A network compiled by hwsparse, for {machine} with Android.

library.so, weights.safetensors, library.json   the network: code, weights, and what goes in and out
run.cc                                          a program that runs it, to copy from

TVM's runtime is not here: nobody packages it for Android. Build libtvm_runtime.so and libtvm_ffi.so from the sources of
TVM {tvm} with Android's NDK, and load them with the program; library.so itself needs libm.so and libc.so only.
"""
_LINUX = """A network compiled by hwsparse, for {machine} with Linux and glibc 2.28 or later.

library.so, weights.safetensors, library.json   the network: code, weights, and what goes in and out
libtvm_runtime.so, libtvm_ffi.so                TVM's runtime, {tvm} (Apache-2.0, https://tvm.apache.org)
run.py, run.cc                                  programs that run it, to copy from

inputs.safetensors holds an array for each input, by name; outputs are written in the same way.

{compiled}In Python: pip install apache-tvm-ffi=={ffi} numpy
    python run.py . inputs.safetensors outputs.safetensors

In C++, with the headers of that package:
    c++ -std=c++17 -O2 run.cc -o run -I $(tvm-ffi-config --includedir) -I $(tvm-ffi-config --dlpack-includedir) \\
        -L . -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN'
    ./run . inputs.safetensors outputs.safetensors
"""
