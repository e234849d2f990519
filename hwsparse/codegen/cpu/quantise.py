"""What layers read as bytes, and weights as words of them: see `hwsparse.quantise`.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import WORD
from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.errors import CompileError
from hwsparse.quantise import MOST_VALUE

# Values of one task: enough to repay a thread's start.
CHUNK = 1 << 14


def geometry_of_words(geometry: Geometry) -> Geometry:
    """The geometry whose channels are words of a layer's."""
    return replace(geometry, channels=geometry.groups * -(-geometry.channels // geometry.groups // WORD))


def words_of(weight: np.ndarray) -> np.ndarray:
    """Signed bytes (rows, inputs, *kernel) as words of four inputs each: (rows, inputs / 4, *kernel) int32.

    Where inputs are no multiple of four, those that are not there weigh nothing.
    """
    padded = np.pad(weight, [(0, 0), (0, -weight.shape[1] % WORD), *[(0, 0)] * (weight.ndim - 2)])
    split = padded.reshape(len(weight), -1, WORD, *weight.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1)).view(np.int32)[..., 0]


def offsets_of(weight: np.ndarray, zero: int) -> np.ndarray:
    """What is to be added to the sums of each row, for values' bytes to count from `zero`: (rows,) int32.

    Args:
        weight: signed bytes, canonical.

    Raises:
        CompileError: a sum may leave int32, whatever values are.
    """
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    offsets = -zero * flat.sum(axis=1)
    largest = np.abs(flat).sum(axis=1) * MOST_VALUE + np.abs(offsets)
    if largest.max(initial=0) > np.iinfo(np.int32).max:
        raise CompileError(f"int8: sums of {flat.shape[1]} products of bytes may not fit int32; choose float32 instead")
    return offsets.astype(np.int32)


@functools.cache
def quantise(shape: tuple[int, ...], lanes: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of values, what they are multiplied by (1,), their zero (1,), and bytes."""
    size = math.prod(shape)
    chunk = min(CHUNK, -(-size // lanes) * lanes)
    tasks = -(-size // chunk)

    def byte(value, inverse, zero, width):
        low, high = tirx.const(0.0, "float32"), tirx.const(float(MOST_VALUE), "float32")
        moved = T.nearbyint(value * inverse) + zero
        return tirx.Cast(f"uint8x{width}" if width > 1 else "uint8", T.min(T.max(moved, low), high))

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer(shape, "float32"),
        inverse: T.Buffer((1,), "float32"),
        zero: T.Buffer((1,), "float32"),
        out: T.Buffer(shape, "uint8"),
    ):
        T.func_attr({"tirx.noalias": True})
        x_flat = T.decl_buffer((size,), "float32", data=x.data)
        out_flat = T.decl_buffer((size,), "uint8", data=out.data)
        for task in T.parallel(tasks):
            start: T.let = task * chunk
            count: T.let = T.min(chunk, size - start)
            for i in range(count // lanes):
                for lane in T.vectorized(lanes):
                    out_flat[start + i * lanes + lane] = byte(x_flat[start + i * lanes + lane], inverse[0], zero[0], 1)
            for i in range(count % lanes):
                place: T.let = start + count // lanes * lanes + i
                out_flat[place] = byte(x_flat[place], inverse[0], zero[0], 1)

    return kernel
