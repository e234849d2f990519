"""Whether code for Arm computes what it should: every kernel, under qemu's emulation, and whole networks.

Layers of every kind are compiled by each kernel that serves them, dense and in every pattern that the target supports,
at several ratios, in each type of weights, and run on random inputs; what comes out is held to onnxruntime's answer:
floats within 1e-4 of the largest, beyond what sums of float16 may be off, bytes to one step. Then whole networks are,
dense and pruned. All is run by the program that devices run networks with. Nothing is timed: an emulator's pace is no
device's.

Needs qemu's user emulation and a root of arm64 files, `python -m benchmarks.arm_root`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from safetensors.numpy import load_file

from benchmarks.emulation import Emulator
from benchmarks.networks import NETWORKS, dense_plan, plan_for
from hwsparse.codegen import build_layer, compile_model, kernels_for, refusal
from hwsparse.codegen.library import REFERENCE, output_error, reference_error
from hwsparse.codegen.link import is_android
from hwsparse.compiler import TOLERANCE, onnxruntime_answers
from hwsparse.errors import CompileError, ExecutionError, HwsparseError, InputError
from hwsparse.pattern import NM, parse_pattern
from hwsparse.plan import Choice, Layer, parse_choice, parse_signature
from hwsparse.sparsify import applicable, apply_plan
from hwsparse.sparsify.apply import in_types
from hwsparse.sparsify.ranges import as_bytes, tensor_ranges
from hwsparse.target import Target, load_target

LAYERS = {
    "1x1": "conv 1x32x13x13 w48x32x1x1 s1x1 p0,0_0,0 d1x1 g1 float32",
    "3x3": "conv 1x16x20x20 w32x16x3x3 s1x1 p1,1_1,1 d1x1 g1 float32",
    "strided": "conv 2x16x17x19 w24x16x3x3 s2x2 p1,1_1,1 d1x1 g1 float32",
    "dilated": "conv 1x12x15x15 w20x12x3x3 s1x1 p2,2_2,2 d2x2 g1 float32",
    "grouped": "conv 1x32x12x12 w32x8x3x3 s1x1 p1,1_1,1 d1x1 g4 float32",
    "depthwise": "conv 1x32x14x14 w32x1x3x3 s1x1 p1,1_1,1 d1x1 g32 float32",
    "1-d": "conv 1x16x60 w32x16x5 s1 p2,2 d1 g1 float32",
    "tokens": "matmul 1x50x64 w48x64 float32",
    "one token": "matmul 1x256 w100x256 float32",
}
RATIOS = (0.5, 0.9)
PLANS = (
    "dense",
    "unstructured@0.9",
    "block4x1@0.8",
    "dense/int8",
    "block4x4@0.75/int8",
    "dense/float16",
    "block4x1@0.8/float16",
)
# Of whole networks, against onnxruntime: rounding may tip a byte over, and what it adds to goes on from there.
# Sums of float16 are off by a five-hundredth in every layer.
TOLERANCES = {"float32": TOLERANCE, "float16": 0.02, "int8": 0.05}
CALIBRATION = 3


@dataclass(frozen=True, slots=True)
class Case:
    """What was run, how far off it was, and why it failed."""

    target: str
    what: str
    choice: str
    kernel: str
    error: float | None
    failure: str | None = None


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--target", nargs="+", default=["arm-cortex-a76"], help="descriptors of Arm CPUs with Linux")
    parser.add_argument("--root", type=Path, help="of arm64 files; by default $HWSPARSE_ARM_ROOT or this user's cache")
    parser.add_argument("--layers", nargs="*", choices=sorted(LAYERS), default=sorted(LAYERS), help="which kinds")
    parser.add_argument("--dtype", nargs="+", help="of weights; by default what the target supports")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--models", nargs="*", choices=sorted(NETWORKS), default=["efficientnet-lite0", "minilm"])
    parser.add_argument("--plans", nargs="+", default=PLANS, help="of whole networks: a choice for all layers that fit")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Runs every case; those that fail do not end it, but make it fail.

    Raises:
        CompileError: some case's results are wrong, or it could not be built or run.
    """
    targets = [load_target(name) for name in arguments.target]
    for target in targets:
        triple = str(json.loads(target.tvm_target).get("mtriple", ""))
        if not triple.startswith("aarch64-") or is_android(triple):
            raise InputError(
                f"target {target.name} is of {triple or 'this machine'}; qemu runs what aarch64-linux-gnu does"
            )
    if arguments.threads:
        targets = [target.with_threads(arguments.threads) for target in targets]
    plans = [parse_choice(text) for text in arguments.plans]
    emulator, console = Emulator.find(arguments.root), Console(highlight=False)
    cases = []
    with tempfile.TemporaryDirectory(prefix="hwsparse-arm-") as scratch:
        for case in _cases(emulator, targets, arguments, plans, Path(scratch)):
            cases.append(case)
            told = f"off by {case.error:.2g}" if case.error is not None else ""
            verdict = f"[red]FAILED[/red]: {case.failure}" if case.failure else "right"
            console.print(f"{case.target} {case.what} {case.choice} {case.kernel}: {verdict} {told}", soft_wrap=True)
    failed = [case for case in cases if case.failure]
    if failed:
        first = failed[0]
        where = f"{first.target} {first.what} {first.choice} {first.kernel}: {first.failure}"
        raise CompileError(f"{len(failed)} of {len(cases)} cases failed; the first: {where}")
    floats = [case.error for case in cases if case.error is not None and parse_choice(case.choice).dtype == "float32"]
    halves = [case.error for case in cases if case.error is not None and parse_choice(case.choice).dtype == "float16"]
    figures = {"cases": float(len(cases)), "failed": 0.0, "max_rel_err_floats": max(floats, default=0.0)}
    if halves:
        figures["max_rel_err_float16"] = max(halves)
    return figures, [dataclasses.asdict(case) for case in cases]


def _cases(
    emulator: Emulator, targets: list[Target], arguments: argparse.Namespace, plans: list[Choice], scratch: Path
) -> Iterator[Case]:
    for target in targets:
        choices = _choices(target, arguments.dtype, arguments.ratios)
        for kind in arguments.layers:
            layer = parse_signature(LAYERS[kind])
            for choice in choices:
                if refusal(layer, choice) is None and applicable(layer, choice.pattern) is None:
                    for kernel in kernels_for(layer, choice, target):
                        yield _layer_case(emulator, target, kind, layer, choice, kernel, scratch)
        for name in arguments.models:
            for choice in plans:
                if target.supports(choice) and (not arguments.dtype or choice.dtype in arguments.dtype):
                    yield _network_case(emulator, target, name, choice, scratch)


def _choices(target: Target, dtypes: list[str] | None, ratios: list[float]) -> list[Choice]:
    """Everything that a target supports, at every ratio where a pattern leaves one to be chosen."""
    found = []
    for text, dtype in target.supported:
        pattern = parse_pattern(text)
        if dtypes and dtype not in dtypes:
            continue
        if text == "dense":
            found.append(Choice(dtype=dtype))
        elif isinstance(pattern, NM):
            found.append(dataclasses.replace(parse_choice(text), dtype=dtype))
        else:
            found += [Choice(pattern, ratio, dtype) for ratio in ratios]
    return found


def _layer_case(
    emulator: Emulator, target: Target, kind: str, layer: Layer, choice: Choice, kernel: str, scratch: Path
) -> Case:
    error, failure = None, None
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        try:
            build_layer(layer, choice, target, Path(directory), kernel)
            stored = load_file(Path(directory) / REFERENCE)
            inputs = {name.removeprefix("in/"): value for name, value in stored.items() if name.startswith("in/")}
            found = emulator.run(Path(directory), inputs, cpu=_cpu(target), threads=target.threads)
            error = max(output_error(value, stored[f"out/{name}"]) for name, value in found.items())
            if not reference_error(found, stored) <= TOLERANCE:
                failure = "differs from onnxruntime's"
        except HwsparseError as trouble:
            failure = str(trouble)
    return Case(target.name, kind, str(choice), kernel, error, failure)


def _network_case(emulator: Emulator, target: Target, name: str, choice: Choice, scratch: Path) -> Case:
    network = NETWORKS[name]
    model = network.build(1)
    plan = dense_plan(model, choice.dtype) if choice.is_dense else plan_for(model, network.layers, choice)
    inputs, *calibration = (network.draw(model, seed) for seed in range(1 + CALIBRATION))
    weights = in_types(plan, apply_plan(model, plan))
    if choice.dtype == "int8":
        weights = as_bytes(model, plan, weights, tensor_ranges(model, calibration))
    error, failure = None, None
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        try:
            compile_model(model, plan, weights, target, Path(directory))
            found = emulator.run(Path(directory), inputs, cpu=_cpu(target), threads=target.threads)
            expected = onnxruntime_answers(model, weights, inputs)
            if set(found) != set(expected):
                raise ExecutionError(f"outputs are {', '.join(found)}, not {', '.join(expected)}")
            error = max(output_error(found[output], value) for output, value in expected.items())
        except HwsparseError as trouble:
            failure = str(trouble)
    if error is not None and not error <= TOLERANCES[choice.dtype]:
        failure = "differs from onnxruntime's"
    return Case(target.name, name, str(choice), f"{len(plan.choices)} layers", error, failure)


def _cpu(target: Target) -> str:
    """The CPU's name, as LLVM and qemu have it."""
    return str(json.loads(target.tvm_target).get("mcpu", ""))
