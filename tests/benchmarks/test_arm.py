"""Code for Arm under emulation, where qemu and a root of arm64 files are at hand; what is said where they are not."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import arm, arm_root, emulation
from benchmarks.arm_root import PROGRAM, make_root
from benchmarks.emulation import Emulator
from hwsparse.codegen import build_layer, compile_model, random_inputs
from hwsparse.codegen.library import REFERENCE, output_error
from hwsparse.codegen.single import _model
from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import CompileError, ExecutionError, InputError
from hwsparse.plan import Plan, parse_choice, parse_signature
from hwsparse.sparsify import apply_plan
from hwsparse.target import load_target
from tests.codegen.test_halves import drawn, summed_by_runs
from tests.codegen.test_networks import convolutional, transformer

A76 = load_target("arm-cortex-a76")


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    try:
        return Emulator.find()
    except InputError as error:
        pytest.skip(str(error))


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    arm.options(parser)
    return parser.parse_args(words)


def test_without_qemu_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"qemu-aarch64 is not on PATH: install .* apt-get install qemu-user"
    ) as caught:
        arm.run(options())
    assert "\n" not in str(caught.value)


def test_without_a_root_it_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / emulation.QEMU).write_text("#!/bin/sh\n")
    (tmp_path / emulation.QEMU).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = rf"{tmp_path}/root: no arm64 root of this version: make it by: python -m benchmarks.arm_root {tmp_path}/root"
    with pytest.raises(InputError, match=said):
        arm.run(options("--root", str(tmp_path / "root")))
    # One that other versions made is none.
    (tmp_path / "root" / PROGRAM).mkdir(parents=True)
    for name in ("run", "versions"):
        (tmp_path / "root" / PROGRAM / name).write_text("old")
    monkeypatch.setenv(arm_root.VARIABLE, str(tmp_path / "root"))
    with pytest.raises(InputError, match="no arm64 root of this version"):
        Emulator.find()


def test_a_target_that_is_no_arm_cpu_is_refused() -> None:
    with pytest.raises(
        InputError, match="target x86-avx2 is of x86_64-linux-gnu; qemu runs what aarch64-linux-gnu does"
    ):
        arm.run(options("--target", "x86-avx2"))


def test_a_root_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds something else than an arm64 root"):
        make_root(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_root_needs_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExecutionError, match=r"an arm64 root needs apt-get: .*No such file"):
        make_root(tmp_path / "root")


def test_everything_that_a_target_supports_is_a_case() -> None:
    choices = arm._choices(A76, None, [0.5, 0.9])
    assert {(str(choice.pattern), choice.dtype) for choice in choices} == set(A76.supported)
    assert sum(str(choice.pattern) == "block4x1" for choice in choices) == 2 * 2  # in float32 and in float16
    assert all(choice.dtype == "int8" for choice in arm._choices(A76, ["int8"], [0.5]))
    for text in arm.LAYERS.values():
        assert parse_signature(text).signature == text


@pytest.mark.parametrize("text", ["dense", "unstructured@0.8", "block4x1@0.5", "dense/int8", "block4x4@0.5/int8"])
@pytest.mark.parametrize("kind", ["3x3", "depthwise", "tokens", "one token"])
def test_layers_compute_what_they_should(kind: str, text: str, emulator: Emulator, tmp_path: Path) -> None:
    layer, choice = parse_signature(arm.LAYERS[kind]), parse_choice(text)
    if kind == "depthwise" and not choice.is_dense:
        choice = replace(parse_choice("dense"), dtype=choice.dtype)
    build_layer(layer, choice, A76, tmp_path)
    stored = load_file(tmp_path / REFERENCE)
    inputs = {name[3:]: value for name, value in stored.items() if name.startswith("in/")}
    for name, value in emulator.run(tmp_path, inputs, cpu="cortex-a76", threads=2).items():
        assert output_error(value, stored[f"out/{name}"]) <= 1e-5


@pytest.mark.parametrize(("kind", "text", "shared"), [("1x1", "block4x1@0.5", 4), ("one token", "dense", 8)])
def test_sums_of_float16_are_those_of_numpy_bit_by_bit(
    kind: str, text: str, shared: int, emulator: Emulator, tmp_path: Path
) -> None:
    layer, choice = parse_signature(arm.LAYERS[kind]), replace(parse_choice(text), dtype="float16")
    weight, x = drawn(layer, choice, np.random.default_rng(0))
    model = _model(
        replace(layer, name="layer", weight="weight", transposed=False), weight, np.zeros(layer.outputs, "f4")
    )
    compile_model(model, Plan.of(model.digest, {"layer": choice}), {"layer": weight}, A76, tmp_path)
    found = emulator.run(tmp_path, {"x": x}, cpu="cortex-a76", threads=2)["y"]
    np.testing.assert_array_equal(found, summed_by_runs(layer, x, weight, shared))


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize("in_python", [False, True], ids=["cpp", "python"])
def test_networks_compute_what_onnxruntime_does(make, in_python: bool, emulator: Emulator, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make(1, seed=3)
    layers = [layer for layer in model.layers if layer.groups == 1 and not layer.outputs % 4]
    plan = Plan.uniform(model.digest, layers, parse_choice("block4x1@0.5"))
    weights = apply_plan(model, plan)
    compile_model(model, plan, weights, A76, tmp_path)
    inputs = random_inputs(model.inputs)
    found = emulator.run(tmp_path, inputs, threads=1, in_python=in_python)
    for name, value in onnxruntime_answers(model, weights, inputs).items():
        assert output_error(found[name], value) < 1e-4


def test_a_wrong_library_fails_its_case(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Emulator.run
    monkeypatch.setattr(
        Emulator, "run", lambda *all, **named: {name: value + 1 for name, value in run(*all, **named).items()}
    )
    arguments = options("--layers", "one token", "--models", "--dtype", "float32", "--ratios", "0.5")
    with pytest.raises(CompileError, match=r"11 of 11 cases failed; the first: .* one token dense .*differs from"):
        arm.run(arguments)


def test_what_the_emulator_says_is_one_line(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text(json.dumps({"inputs": []}))
    with pytest.raises(ExecutionError, match="under emulation of max: error: ") as caught:
        emulator.run(tmp_path, {"x": np.zeros(1, np.float32)})
    assert "\n" not in str(caught.value)


def test_the_command_says_it_in_a_line_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "arm"], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 1 and done.stderr.startswith("error: qemu-aarch64 is not on PATH")
