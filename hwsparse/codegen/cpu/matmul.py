"""Products of two activations, as in attention: out[b, m, n] = sum over k of left[b, m, k] * right[b, k, n].

Vectors run along n. The right operand's tile is first copied to a panel with its last vector filled
up with zeros; each of its vectors then feeds several rows of the left operand.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.product_tile import product_tile

ROWS = 4


@functools.cache
def matmul(left: tuple[int, ...], right: tuple[int, ...], lanes: int, registers: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of left (*batch, m, k), right (*batch, k, n) and output (*batch, m, n)."""
    out_shape = (*left[:-1], right[-1])
    batch, m, depth, n = math.prod(left[:-2]), left[-2], left[-1], right[-1]
    rows = min(ROWS, m)
    most = max(1, min(-(-n // lanes), (registers - 2) // (rows + 1)))
    vectors = min(range(most, 0, -1), key=lambda v: -(-n // (v * lanes)) * (v + 1))
    width = vectors * lanes
    tiles = -(-n // width)
    blocks = -(-m // rows)
    # With few products and tiles, rows are shared out too; each part packs its panel again.
    parts = 1 if batch * tiles % threads == 0 else min(threads, blocks)
    per_part = -(-blocks // parts)
    product = product_tile(rows, vectors, lanes)

    @T.prim_func(s_tir=True)
    def kernel(a: T.Buffer(left, "float32"), b: T.Buffer(right, "float32"), out: T.Buffer(out_shape, "float32")):
        T.func_attr({"tirx.noalias": True})
        a_flat = T.decl_buffer((batch * m * depth,), "float32", data=a.data)
        b_flat = T.decl_buffer((batch * depth * n,), "float32", data=b.data)
        out_flat = T.decl_buffer((batch * m * n,), "float32", data=out.data)
        for task in T.parallel(batch * tiles * parts):
            panel = T.alloc_buffer((depth * width,), "float32")
            sums = T.alloc_buffer((rows * width,), "float32")
            image: T.let = task // (tiles * parts)
            left_edge: T.let = task // parts % tiles * width
            wide: T.let = T.min(width, n - left_edge)
            for k in range(depth):
                for j in range(wide):
                    panel[k * width + j] = b_flat[(image * depth + k) * n + left_edge + j]
                for j in range(width - wide):
                    panel[k * width + wide + j] = T.float32(0)
            for step in range(T.min(per_part, blocks - task % parts * per_part)):
                # The last block reaches back over rows that another one computes too, to the same values.
                top: T.let = T.min((task % parts * per_part + step) * rows, m - rows)
                product(a_flat, (image * m + top) * depth, depth, 1, panel, 0, width, depth, sums, 0)
                for row in range(rows):
                    for j in range(wide):
                        out_flat[(image * m + top + row) * n + left_edge + j] = sums[row * width + j]

    return kernel
