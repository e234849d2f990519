"""Records count only for the kernels that they were made with: kernels that change have another version."""

from __future__ import annotations

import hashlib

import pytest

from hwsparse.codegen import KERNEL_VERSION, kernels_for, refusal
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.select import kernel_for
from hwsparse.codegen.lowering import lower
from hwsparse.model import Model
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import applicable, apply_plan
from hwsparse.target import load_target
from tests.codegen.building import Network
from tests.codegen.compiling import with_flags

CHOICES = ("dense", "unstructured@0.8", "block4x1@0.8", "block16x1@0.8", "2:4")
# Of all that layers below are lowered to for a target. Where kernels change, so do these, and the version: records made
# by the older ones are then not used. Where they only read differently, the version stays.
VERSION = "10"
CODE = {"x86-avx512": "d0ac934f05c2fd01", "x86-avx2": "c85af18e94ba8e28", "arm-cortex-a76": "c9d88176ca233756"}
BYTES = ("dense/int8", "block1x4@0.8/int8", "block4x4@0.8/int8", "block8x4@0.8/int8")
HALVES = ("dense/float16", "block4x1@0.8/float16")
PAIRS = ("dense/bfloat16", "block1x2@0.8/bfloat16", "block4x2@0.8/bfloat16")
CODE_OF_WORDS = {
    ("x86-avx512 with avx512_vnni", BYTES): "5ed79df573851399",
    ("x86-avx512", BYTES): "2e13865cf6db3c41",
    ("x86-avx2", BYTES): "28188f748426b762",
    ("arm-cortex-a76", BYTES): "8f924f97df9ba2ec",
    ("arm-cortex-a76", HALVES): "89637671510ea22b",
    ("x86-avx512 with avx512_bf16", PAIRS): "6d628372083ed6b0",
}


def networks() -> list[Model]:
    """One layer each: a stem, 3x3, 1x1, depthwise, grouped, and products of one row and of many."""
    found = []
    for channels, outputs, size, kernel, stride, group in (
        (3, 16, 32, 3, 2, 1), (32, 32, 14, 3, 1, 1), (64, 32, 7, 1, 1, 1), (32, 32, 14, 3, 1, 32),
        (32, 32, 14, 3, 2, 2),
    ):  # fmt: skip
        net, out = Network(0), (size + stride - 1) // stride
        y = net.conv("x", channels, outputs, kernel, stride, group)
        found.append(net.model((1, channels, size, size), (y, (1, outputs, out, out))))
    for rows in (1, 24):
        net = Network(0)
        found.append(net.model((1, rows, 64), (net.product("x", 64, 128), (1, rows, 128))))
    return found


@pytest.mark.parametrize("name", CODE)
def test_kernels_that_change_have_another_version(name: str) -> None:
    target, digest = load_target(name), hashlib.sha256()
    for model in networks():
        (layer,) = model.layers
        for choice in map(parse_choice, CHOICES):
            if applicable(layer, choice.pattern) is None and refusal(layer, choice) is None:
                plan = Plan.of(model.digest, {layer.name: choice})
                for kernel in kernels_for(layer, choice, target):
                    lowered = lower(model, plan, apply_plan(model, plan), target, {layer.name: kernel})
                    digest.update(f"{layer.signature} {choice} {kernel}\n{lowered.module.script()}".encode())
    assert (KERNEL_VERSION, digest.hexdigest()[:16]) == (VERSION, CODE[name])


@pytest.mark.parametrize(("told", "choices"), CODE_OF_WORDS)
def test_kernels_of_words_that_change_have_another_version(told: str, choices: tuple[str, ...]) -> None:
    name, *flags = told.split(" with ")
    target, digest = with_flags(name, *flags), hashlib.sha256()
    epilogue = Epilogue(stored="uint8" if choices is BYTES else "float32")
    for (layer,) in (model.layers for model in networks()):
        for choice in map(parse_choice, choices):
            if applicable(layer, choice.pattern) is None and refusal(layer, choice) is None:
                for kernel in kernels_for(layer, choice, target):
                    made = kernel_for(layer, choice, target, epilogue, kernel)
                    digest.update(f"{layer.signature} {choice} {kernel}\n{made.function.script()}".encode())
    assert (KERNEL_VERSION, digest.hexdigest()[:16]) == (VERSION, CODE_OF_WORDS[told, choices])
