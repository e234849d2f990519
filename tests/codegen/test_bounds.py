"""No kernel reads or writes out of bounds: every one is run between guard pages, in another process."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.attention import Attention, Placed, attention
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.matmul import matmul
from hwsparse.codegen.cpu.normalise import average, greatest, layer_norm, softmax
from hwsparse.codegen.cpu.pooling import Axis, Pooling, pool
from hwsparse.codegen.cpu.select import kernel_for, kernels_for
from hwsparse.codegen.folding import folded, folded_floats
from hwsparse.codegen.graph import contiguous
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Layer
from hwsparse.quantise import Scale
from hwsparse.sparsify.mask import make_mask
from hwsparse.target import Target
from tests.codegen import script_parsing
from tests.codegen.guarded import run_guarded
from tests.codegen.layers import BY_LANE, CPU, conv, product, winograd_kernel

Shape = tuple[int, ...]

TARGETS = {"8 lanes": CPU, "16 lanes": replace(CPU, vector_bits=512, vector_registers=32)}
# So little of L1 that panels are split into blocks of columns.
SPLIT = replace(CPU, l1d_bytes=1 << 9)
ADDED = Epilogue(True)
# How rows share lists, and what each is tried with.
EPILOGUES = {"unstructured": ADDED, "block4x1": Epilogue(False, 0.0), "block16x1": Epilogue(True, in_place=True)}
PADDED = ((1, 1), (1, 1))
# Sixteen channels make whole cache lines of every array, however odd the planes: then nothing lies between it and
# the page behind it.
LAYERS = {
    "1x1": conv(2, 16, (7, 9), 16, (1, 1)),
    "1x1 strided": conv(1, 16, (9, 13), 16, (1, 1), (2, 2)),
    "1x1 strided, last pixels unread": conv(1, 16, (8, 12), 16, (1, 1), (3, 2)),
    "3x3": conv(2, 16, (7, 11), 16, (3, 3), pads=PADDED),
    "3x3 unpadded": conv(1, 16, (13, 9), 16, (3, 3)),
    "3x3 strided": conv(1, 16, (13, 9), 16, (3, 3), (2, 2), PADDED),
    "3x3 dilated": conv(1, 16, (13, 9), 16, (3, 3), dilations=(2, 2)),
    "7x7 strided": conv(1, 3, (21, 23), 16, (7, 7), (2, 2), ((3, 3), (3, 3))),
    "grouped": conv(1, 32, (9, 7), 32, (3, 3), pads=PADDED, groups=2),
    "1-D": conv(2, 16, (37,), 16, (5,), pads=((2, 2),)),
    "1-D strided": conv(1, 16, (37,), 16, (3,), (2,)),
    "tokens": product((1, 37), 32, 16),
    "tokens, odd": product((1, 37), 21, 23),
}
DEPTHWISE = {
    "depthwise": conv(1, 16, (13, 17), 16, (3, 3), pads=PADDED, groups=16),
    "depthwise 14": conv(2, 16, (14, 14), 16, (5, 5), pads=((2, 2), (2, 2)), groups=16),
    "depthwise exact": conv(1, 16, (16, 32), 32, (3, 3), pads=PADDED, groups=16),
    "depthwise strided": conv(1, 16, (17, 13), 16, (3, 3), (2, 2), PADDED, groups=16),
    "depthwise thrice strided, dilated": conv(1, 16, (25, 31), 16, (3, 3), (3, 3), dilations=(2, 2), groups=16),
    "depthwise 1-D": conv(1, 16, (39,), 16, (4,), groups=16),
}

# What depthwise layers read and what they store.
STORED = (("int8", "uint8"), ("int8", "float32"), ("float32", "uint8"))
# Kernels, strides, paddings and dilations.
POOLS = ((3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 1, 2, 2), (2, 3, 0, 1))


def of_layer(
    layer: Layer, text: str, target: Target, epilogue: Epilogue, scheme: winograd.Scheme | None = None
) -> list[str]:
    """Of every kernel that serves a layer, or of Winograd's for a scheme."""
    rng = np.random.default_rng(0)
    choice = Choice() if text == "dense" else Choice(parse_pattern(text), 0.5)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), choice, layer.groups)
    x, bias, added = floats(layer.input_shape, (layer.outputs,), layer.output_shape)
    if scheme is not None:
        kernels = [winograd_kernel(layer, scheme, epilogue, target)]
    else:
        names = kernels_for(layer, choice, target)
        kernels = [kernel_for(layer, choice, target, epilogue, name) for name in names]
    found = []
    for kernel in kernels:
        inputs = [x, *kernel.pack(weight), bias]
        out = unwritten(layer.output_shape)
        if epilogue.in_place:
            out = added
        elif epilogue.residual:
            inputs.append(added)
        found += [f"{kernel.name}: {fault}" for fault in run_guarded(kernel.function, inputs, out)]
    return found


def of_bytes(layer: Layer, target: Target, dtype: str, stored: str) -> list[str]:
    """Of a depthwise layer that reads bytes, if it is of them, and may store them."""
    rng, scale = np.random.default_rng(0), Scale(0.02, 7)
    epilogue = Epilogue(low=0.0, stored=stored)
    kernel = kernel_for(layer, Choice(dtype=dtype), target, epilogue)
    weight, bias = floats(layer.weight_shape, (layer.outputs,))
    to = scale if stored == "uint8" else None
    if dtype == "int8":
        x = rng.integers(0, 256, layer.input_shape).astype(np.uint8)
        *lists, scales = kernel.pack(weight, scale)
        packed = (*lists, *folded(epilogue, lists[-1], scales, bias, None, to))
    else:
        (x,) = floats(layer.input_shape)
        packed = folded_floats(epilogue, *kernel.pack(weight), bias, scale)
    out = np.full(layer.output_shape, 77, np.uint8) if to else unwritten(layer.output_shape)
    return run_guarded(kernel.function, [x, *packed], out)


def of_attention(queries: int, keys: int, depth: int, width: int, masked: bool, target: Target) -> list[str]:
    """Operands that are columns of arrays (batch, token, head, column)."""

    def placed(rows: int, columns: int) -> Placed:
        buffer = (1, rows, 2, columns)
        image, row, head, column = contiguous(buffer)
        return Placed(buffer, 0, (image, head, row, column))

    mask = Placed((1, 1, queries, keys), 0, (0, 0, keys, 1)) if masked else None
    sizes = Attention(
        1, 2, queries, keys, depth, width, 0.3,
        placed(queries, depth), placed(keys, depth), placed(keys, width), mask, placed(queries, width),
    )  # fmt: skip
    operands = (sizes.query, sizes.key, sizes.value, *([mask] if mask else []))
    function = attention(sizes, target.vector_bits // 32, target.vector_registers, target.threads)
    return run_guarded(function, floats(*(operand.buffer for operand in operands)), unwritten(sizes.out.buffer))


def of_arrays(make: Callable[..., tirx.PrimFunc], shapes: list[Shape], out: Shape, *sizes: Any) -> list[str]:
    return run_guarded(make(*sizes), floats(*shapes), unwritten(out))


def unwritten(shape: Shape) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def floats(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def straying(reach: int, workspace: int) -> tirx.PrimFunc:
    """A kernel that copies 2048 floats by way of a workspace, from a place of the input and of the workspace on."""

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((2048,), "float32"), y: T.Buffer((2048,), "float32")):
        held = T.alloc_buffer((2048,), "float32")
        for i in range(2048):
            held[i] = x[i + reach]
        for i in range(2048):
            y[i] = held[i + workspace]

    return kernel


def by_lane() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Kernels that take weights from lanes of vectors, of entries one by one and of several together.

    Every layer in two ways of four, and so every way in half of the layers.
    """
    texts = (*EPILOGUES, "block2x1")
    for (place, (name, layer)), number in itertools.product(enumerate(LAYERS.items()), (0, 1)):
        text = texts[(place + number) % len(texts)]
        yield f"{name}, {text}", partial(of_layer, layer, text, BY_LANE, EPILOGUES.get(text, ADDED))
    for place, (name, layer) in enumerate(DEPTHWISE.items()):
        yield name, partial(of_layer, layer, "dense", BY_LANE, Epilogue())
        dtype, stored = (("int8", "uint8"), ("float32", "uint8"))[place % 2]
        yield f"{name}, {dtype} to {stored}", partial(of_bytes, layer, BY_LANE, dtype, stored)


def cases() -> dict[str, Callable[[], list[str]]]:
    """Every kernel, as a function that runs it between guard pages."""
    named: dict[str, Callable[[], list[str]]] = {}
    for wide, target in TARGETS.items():
        lanes, registers, threads = target.vector_bits // 32, target.vector_registers, target.threads
        for number, ((name, layer), text) in enumerate(itertools.product(LAYERS.items(), EPILOGUES)):
            # Every layer in every way on narrow vectors, and in one way after the other on wide ones.
            if target is CPU or number % 4 == 0:
                named[f"{name}, {text}, {wide}"] = partial(of_layer, layer, text, target, EPILOGUES[text])
        for name, layer in DEPTHWISE.items():
            named[f"{name}, {wide}"] = partial(of_layer, layer, "dense", target, Epilogue())
            for dtype, stored in STORED if target is CPU else STORED[:1]:
                named[f"{name}, {dtype} to {stored}, {wide}"] = partial(of_bytes, layer, target, dtype, stored)
        for count in (1, 3):
            layer = product((count,), 32, 48)
            named[f"{count} positions, {wide}"] = partial(of_layer, layer, "unstructured", target, ADDED)
        for (kernel, stride), size in itertools.product(((3, 1), (7, 2)), ((14, 14), (9, 15))):
            layer = conv(1, 16, size, 16, (kernel, kernel), (stride, stride), PADDED)
            for scheme in winograd.Scheme(4, -(-kernel // stride), stride), winograd.Scheme(2, 3, 1):
                if scheme.stride == stride:
                    named[f"{scheme}, {size}, {wide}"] = partial(of_layer, layer, "dense", target, ADDED, scheme)
        for sizes, masked in itertools.product(((16, 16, 32, 32), (13, 21, 19, 11)), (False, True)):
            named[f"attention {sizes}, {masked}, {wide}"] = partial(of_attention, *sizes, masked, target)
        for m, depth, n in ((16, 8, 16), (5, 7, 23)):
            left, right = (2, m, depth), (2, depth, n)
            named[f"matmul {m, depth, n}, {wide}"] = partial(
                of_arrays, matmul, [left, right], (2, m, n), left, right, lanes, registers, threads
            )
        for row in ((16, 48), (16, 37)):
            named[f"softmax {row}, {wide}"] = partial(of_arrays, softmax, [row], row, row, lanes, threads)
            named[f"greatest {row}, {wide}"] = partial(
                of_arrays, greatest, [row], (16, 1), row, (16, 1), lanes, threads
            )
            named[f"average {row}, {wide}"] = partial(of_arrays, average, [row], (16,), row, (16,), lanes, threads)
            named[f"layer_norm {row}, {wide}"] = partial(
                of_arrays, layer_norm, [row, row[1:], row[1:]], row, row, 1e-5, lanes, threads
            )
        for place, ((kernel, stride, pad, dilation), greatest_of) in enumerate(itertools.product(POOLS, (True, False))):
            if target is not CPU and place % 4 not in (0, 3):  # on wide vectors the greatest or the average by turns
                continue
            rows, columns = (Axis(size, kernel, stride, dilation, pad, pad, False) for size in (29, 35))
            pooling = Pooling((2, 8), rows, columns, greatest_of, False)
            shapes = [pooling.input_shape], pooling.output_shape
            named[f"pool {kernel, stride, pad, dilation, greatest_of}, {wide}"] = partial(
                of_arrays, pool, *shapes, pooling, lanes, threads
            )
    for name in ("1x1", "3x3", "3x3 strided", "grouped", "tokens"):
        named[f"{name}, split"] = partial(of_layer, LAYERS[name], "unstructured", SPLIT, ADDED)
    return named | {f"{name}, by lane": case for name, case in by_lane()}


CASES = cases()
STRAYING = {"before the input": (-1, 0), "past the input": (1, 0), "past a workspace": (0, 1)}


def run_case(name: str) -> list[str]:
    return CASES[name]()


def run_straying(name: str) -> list[str]:
    return of_arrays(straying, [(2048,)], (2048,), *STRAYING[name])


def other_process() -> ProcessPoolExecutor:
    """A process that may die, at once: TVM would first print where, and may not come to an end of it."""
    return ProcessPoolExecutor(1, get_context("spawn"), begin)


def begin() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    script_parsing.install()


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    """What comes after the kernel that killed it is not run."""
    with other_process() as pool:
        yield pool


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_stays_within_its_buffers(child: ProcessPoolExecutor, name: str) -> None:
    assert child.submit(run_case, name).result() == []


@pytest.mark.parametrize("name", STRAYING)
def test_a_kernel_that_strays_is_caught(name: str) -> None:
    """By a guard page, or before that by what it reads in ordinary memory."""
    with other_process() as pool:
        try:
            found = pool.submit(run_straying, name).result()
        except BrokenProcessPool:
            found = ["killed"]
    assert found
