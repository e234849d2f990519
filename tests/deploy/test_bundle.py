"""The folder that a device gets: what is in it, what its programs compute, and what they say when they cannot."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi.libinfo
from safetensors.numpy import load_file, save_file

from hwsparse.codegen import Library, build_layer, compile_model, random_inputs
from hwsparse.deploy import bundle, run
from hwsparse.deploy.bundle import RUNTIME
from hwsparse.elf import SharedLibrary
from hwsparse.errors import ArtifactError, CompileError, UnsupportedError
from hwsparse.plan import Choice, Plan, parse_signature
from hwsparse.probe import machine
from hwsparse.target import load_target
from tests.codegen.building import Network
from tests.codegen.layers import CPU

OTHER = "aarch64" if machine() == "x86_64" else "x86_64"
INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two outputs, compiled for this machine."""
    net = Network(3)
    hidden = net.node("Relu", net.conv("x", 4, 8, 3))
    model = net.model((1, 4, 9, 9), (hidden, (1, 8, 9, 9)), (net.conv(hidden, 8, 6, 1), (1, 6, 9, 9)))
    directory = tmp_path_factory.mktemp("library")
    compile_model(model, Plan(model.digest), {}, replace(CPU, threads=1), directory)
    return directory


@pytest.fixture(scope="module")
def folder(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "board"
    bundle(library, directory)
    return directory


def told(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def require_right(folder: Path, library: Path, command: list[str], place: Path) -> None:
    """Holds what a program computes to what `Library` does."""
    network = Library.load(library, 1)
    inputs = random_inputs(network.inputs, 5)
    save_file(inputs, place / INPUTS)
    assert told([*command, str(folder), str(place / INPUTS), str(place / OUTPUTS), "2"]) == (0, "")
    outputs, expected = load_file(place / OUTPUTS), network.run(inputs)
    assert set(outputs) == set(expected) and len(expected) == 2
    for name, value in expected.items():
        assert outputs[name].dtype == value.dtype
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-6)


def test_it_holds_what_a_device_needs(library: Path, folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    network = {"library.so", "library.json", "weights.safetensors"}
    assert names == network | {"run.py", "run.cc", "README.txt", *RUNTIME}
    for name in network:
        assert (folder / name).read_bytes() == (library / name).read_bytes()
    text = (folder / "README.txt").read_text()
    assert machine() in text and f"apache-tvm-ffi=={importlib.metadata.version('apache-tvm-ffi')}" in text
    # TVM's compiler and hwsparse are not needed.
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6


def test_the_python_program_runs_it(library: Path, folder: Path, tmp_path: Path) -> None:
    # -I: without this directory on the path, nor anybody's settings
    require_right(folder, library, [sys.executable, "-I", str(folder / "run.py")], tmp_path)


def test_the_cpp_program_runs_it(library: Path, folder: Path, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    include = Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())
    program = tmp_path / "run"
    command = [
        compiler, "-std=c++17", "-O0", str(folder / "run.cc"), "-o", str(program), *(f"-I{path}" for path in include),
        f"-L{folder}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", f"-Wl,-rpath,{folder}",
    ]  # fmt: skip
    assert told(command)[0] == 0
    require_right(folder, library, [str(program)], tmp_path)

    def said(*words: str) -> str:
        code, text = told([str(program), *words])
        assert code == 1 and text.startswith("error: ") and text.count("\n") == 1
        return text

    given, wanted = str(tmp_path / INPUTS), str(tmp_path / OUTPUTS)
    assert "nowhere/library.json: cannot be read" in said(str(tmp_path / "nowhere"), given, wanted)
    save_file({"x": np.zeros((1, 4, 9, 8), np.float32)}, tmp_path / INPUTS)
    assert "input x is of another shape or type" in said(str(folder), given, wanted)
    save_file({"y": np.zeros(3, np.float32)}, tmp_path / INPUTS)
    assert "input x is missing" in said(str(folder), given, wanted)
    assert "another processor" in said(str(of_another_machine(folder, tmp_path / "other")), given, wanted)
    old = said(str(of_another_version(folder, tmp_path / "old")), given, wanted)
    assert "was compiled by TVM 9.9.0: libtvm_runtime.so and libtvm_ffi.so must be of that version" in old


def of_another_machine(folder: Path, directory: Path) -> Path:
    shutil.copytree(folder, directory)
    data = bytearray((directory / "library.so").read_bytes())
    data[18:20] = (183 if machine() == "x86_64" else 62).to_bytes(2, "little")
    (directory / "library.so").write_bytes(data)
    return directory


def of_another_version(folder: Path, directory: Path) -> Path:
    """A library that a later TVM compiled."""
    shutil.copytree(folder, directory)
    data = (directory / "library.so").read_bytes()
    assert data.count(b"0.14") == 1  # TVM's VM_VERSION
    (directory / "library.so").write_bytes(data.replace(b"0.14", b"9.99"))
    described = json.loads((directory / "library.json").read_text())
    (directory / "library.json").write_text(json.dumps({**described, "tvm": "9.9.0"}))
    return directory


def test_the_python_program_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x": np.zeros((1, 4, 9, 9), np.float32)}, tmp_path / INPUTS)

    def said(directory: Path) -> str:
        assert run.main([str(directory), str(tmp_path / INPUTS), str(tmp_path / OUTPUTS)]) == 1
        text = capsys.readouterr().err
        assert text.startswith("error: ") and text.count("\n") == 1
        return text

    assert "No such file" in said(tmp_path / "nowhere")
    assert "another processor" in said(of_another_machine(folder, tmp_path / "other"))
    assert "was compiled by TVM 9.9.0" in said(of_another_version(folder, tmp_path / "old"))
    save_file({"x": np.zeros((1, 4, 9, 8), np.float32)}, tmp_path / INPUTS)
    assert "input x is float32 of shape [1, 4, 9, 9]" in said(folder)
    save_file({"y": np.zeros(3, np.float32)}, tmp_path / INPUTS)
    assert "input x is missing" in said(folder)
    assert run.main([]) == 2 and "usage: " in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_its_files_are_safetensors(dtype: str, tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b c": np.ones((), dtype)}
    run.write_tensors(tmp_path / "ours", arrays)
    save_file(arrays, tmp_path / "theirs")
    for read in (load_file(tmp_path / "ours"), run.read_tensors(tmp_path / "theirs")):
        assert set(read) == set(arrays)
        for name, value in arrays.items():
            assert read[name].dtype == value.dtype and np.array_equal(read[name], value)


def wheel(directory: Path, package: str, member: str) -> None:
    name = f"{package.replace('-', '_')}-{importlib.metadata.version(package)}-py3-none-manylinux_2_28_{OTHER}.whl"
    with zipfile.ZipFile(directory / name, "w") as archive:
        archive.writestr(f"somewhere/lib/{member}", f"{member} of {OTHER}")


def for_other(library: Path, place: Path) -> Path:
    place.mkdir()
    for name in ("library.so", "library.json", "weights.safetensors"):
        shutil.copyfile(library / name, place / name)
    data = bytearray((place / "library.so").read_bytes())
    data[18:20] = (183 if OTHER == "aarch64" else 62).to_bytes(2, "little")
    (place / "library.so").write_bytes(data)
    return place


def test_the_runtime_of_another_machine_comes_from_wheels(library: Path, tmp_path: Path) -> None:
    other, wheels = for_other(library, tmp_path / "other"), tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(CompileError, match=rf"wheels: no wheel of apache-tvm .* for {OTHER}"):
        bundle(other, tmp_path / "out", wheels)
    for member, package in RUNTIME.items():
        wheel(wheels, package, member)
    bundle(other, tmp_path / "out", wheels)
    for member in RUNTIME:
        assert (tmp_path / "out" / member).read_text() == f"{member} of {OTHER}"
    wheel(wheels, "apache-tvm", "another.so")
    with pytest.raises(CompileError, match=r"whl: no wheel, or one without libtvm_runtime\.so"):
        bundle(other, tmp_path / "out2", wheels)
    assert not (tmp_path / "out2").exists()


def test_a_runtime_that_cannot_be_downloaded_says_what_to_do(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    said = rf"cannot download apache-tvm==.*; or put their wheels for {OTHER} in a folder and name it with --wheels"
    with pytest.raises(CompileError, match=said):
        bundle(for_other(library, tmp_path / "other"), tmp_path / "out")


def test_what_there_is_no_runtime_for_is_refused(library: Path, tmp_path: Path) -> None:
    from hwsparse.deploy.bundle import runtime

    with pytest.raises(UnsupportedError, match=r"no runtime for riscv64: build it from TVM's sources"):
        runtime(SharedLibrary("riscv64", (), ()))
    with pytest.raises(ArtifactError, match=r"nothing/library\.so: No such file"):
        bundle(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(ArtifactError, match="something is there already"):
        bundle(library, tmp_path / "taken")


def test_what_only_a_simulator_runs_is_refused(tmp_path: Path) -> None:
    layer = parse_signature("conv 1x8x6x6 w8x8x3x3 s1x1 p1,1_1,1 d1x1 g1 float32")
    (made := tmp_path / "made").mkdir()
    build_layer(layer, Choice(dtype="int8"), load_target("fpga-sim"), made)
    with pytest.raises(UnsupportedError, match="compiled for a simulated accelerator, which hwsparse runs"):
        bundle(made, tmp_path / "folder")
    (made / "library.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"library.json tells of no compiled library"):
        bundle(made, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
