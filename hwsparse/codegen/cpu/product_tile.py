"""The inner kernel of products of activations: a tile of sums in registers, and how large a tile is best.

Knows nothing of what is multiplied.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from hwsparse.codegen.cpu.entry import REGISTERS

# Fewer sums than these wait for one another: two multiply-adds a cycle, each four cycles long.
FEWEST_SUMS = 8


def tile_shape(rows: int, vectors: int, registers: int) -> tuple[int, int]:
    """Rows, a divisor of `rows`, and vectors of a tile that `registers` hold and that costs the fewest steps."""

    def cost(shape: tuple[int, int]) -> tuple[int, int]:
        height, across = shape
        tiles = rows // height * -(-vectors // across)
        return tiles * (max(FEWEST_SUMS, height * across) + height + across), across

    shapes = [
        (height, across)
        for height in range(1, rows + 1)
        for across in range(1, vectors + 1)
        if rows % height == 0 and (height + 1) * across < registers
    ]
    return min(shapes, key=cost)


def product_tile(rows: int, vectors: int, lanes: int) -> Any:
    """An inline function that stores sums[row, j] = sum over k of left[row, k] * panel[k, j].

    Its arguments are (left, left_start, left_row, left_step, panel, panel_start, pitch, depth, sums, start):
    `left` has strides `left_row` and `left_step`; panel and sums have rows of `pitch` floats.
    """

    @T.inline
    def product(left, left_start, left_row, left_step, panel, panel_start, pitch, depth, sums, start):
        acc = T.alloc_buffer((rows * vectors, lanes), "float32", scope="local", annotations=REGISTERS)
        for i in T.unroll(rows * vectors):
            for lane in T.vectorized(lanes):
                acc[i, lane] = T.float32(0)
        for k in range(depth):
            for row in T.unroll(rows):
                for vector in T.unroll(vectors):
                    for lane in T.vectorized(lanes):
                        acc[row * vectors + vector, lane] = (
                            acc[row * vectors + vector, lane]
                            + left[left_start + row * left_row + k * left_step]
                            * panel[panel_start + k * pitch + vector * lanes + lane]
                        )
        for row in T.unroll(rows):
            for vector in T.unroll(vectors):
                for lane in T.vectorized(lanes):
                    sums[start + row * pitch + vector * lanes + lane] = acc[row * vectors + vector, lane]

    return product
