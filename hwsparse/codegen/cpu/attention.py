"""Attention in one kernel: out = softmax(scale * query * key^T + mask) * value, head by head.

The scores of a few queries stay in L1 from the first product to the second and never reach memory (as in
Dao et al., FlashAttention, 2022, but with whole rows of scores). Every operand is read, and the output
written, where it lies: heads are strides of the layers' own outputs.

Knows nothing of Relax, ONNX or models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.copying import load_transposed
from hwsparse.codegen.cpu.entry import without_parameters
from hwsparse.codegen.cpu.normalise import exponentials
from hwsparse.codegen.cpu.product_tile import product_tile, tile_shape

# Queries whose scores are held at a time: 8 rows of a few hundred keys fit L1 beside the panels.
MOST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an array (batch, heads, rows, columns) lies in a buffer; a stride of 0 repeats one element."""

    buffer: tuple[int, ...]  # the buffer's own shape
    offset: int  # in elements, as are the strides
    strides: tuple[int, int, int, int]

    def __iter__(self) -> Iterator[int]:
        return iter((self.offset, *self.strides))


@dataclass(frozen=True, slots=True)
class Attention:
    """The sizes of an attention and where its operands are; a mask is added to the scaled scores."""

    batch: int
    heads: int
    queries: int
    keys: int
    depth: int  # of a query and a key
    width: int  # of a value and an output
    scale: float
    query: Placed
    key: Placed
    value: Placed
    mask: Placed | None
    out: Placed


@functools.cache
def attention(sizes: Attention, lanes: int, registers: int, threads: int) -> tirx.PrimFunc:
    """The kernel as a PrimFunc of query, key, value, the mask if there is one, and the output."""
    run = _run(sizes, lanes, registers, threads)
    query, key, value, out = (placed.buffer for placed in (sizes.query, sizes.key, sizes.value, sizes.out))
    masked = int(sizes.mask is not None)
    mask = sizes.mask.buffer if sizes.mask is not None else value

    @T.prim_func(s_tir=True)
    def kernel(
        q: T.Buffer(query, "float32"),
        k: T.Buffer(key, "float32"),
        v: T.Buffer(value, "float32"),
        shift: T.Buffer(mask, "float32"),
        y: T.Buffer(out, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        if masked > 0:
            run(q, k, v, shift, y)
        else:
            run(q, k, v, v, y)

    return kernel if masked else without_parameters(kernel, [-2])


def _run(sizes: Attention, lanes: int, registers: int, threads: int) -> Any:
    heads, keys, queries, depth, width, scale = (
        sizes.heads, sizes.keys, sizes.queries, sizes.depth, sizes.width, sizes.scale
    )  # fmt: skip
    q_start, q_image, q_head, q_row, q_column = sizes.query
    k_start, k_image, k_head, k_row, k_column = sizes.key
    v_start, v_image, v_head, v_row, v_column = sizes.value
    y_start, y_image, y_head, y_row, y_column = sizes.out
    m_start, m_image, m_head, m_row, m_column = sizes.mask or (0, 0, 0, 0, 0)
    flat = [math.prod(p.buffer) for p in (sizes.query, sizes.key, sizes.value, sizes.mask or sizes.value, sizes.out)]
    masked = int(sizes.mask is not None)
    rows = min(MOST_ROWS, queries)
    # A mask that differs between queries is copied for each block of them, any other once for each head.
    mask_rows, mask_by_row = (rows, 1) if m_row else (1, 0)
    score_vectors, value_vectors = -(-keys // lanes), -(-width // lanes)
    score_rows, score_tile = tile_shape(rows, score_vectors, registers)
    value_rows, value_tile = tile_shape(rows, value_vectors, registers)
    score_tiles, value_tiles = -(-score_vectors // score_tile), -(-value_vectors // value_tile)
    score_pitch, value_pitch = score_tiles * score_tile * lanes, value_tiles * value_tile * lanes
    score_product, value_product = (
        product_tile(score_rows, score_tile, lanes), product_tile(value_rows, value_tile, lanes)
    )  # fmt: skip
    soften = exponentials(
        score_vectors, lanes, lambda score, added: score * T.Broadcast(T.float32(scale), lanes) + added
    )
    # With few heads, queries are shared out too; each part packs its panels again.
    blocks = -(-queries // rows)
    tasks = sizes.batch * heads
    parts = 1 if tasks % threads == 0 else min(threads, blocks)
    per_part = -(-blocks // parts)
    whole_keys = keys // lanes if k_column == 1 else 0
    whole_depth = depth // lanes if k_column == 1 else 0

    def turn(keys_panel: Any, to: Any, k: Any, start: Any) -> None:
        for i, column in enumerate(load_transposed(k, start, k_row, lanes)):
            T.buffer_store(keys_panel, column, [T.Ramp(to + i * score_pitch, 1, lanes)])

    @T.inline
    def pack_keys(k, start, panel):
        """Keys become columns: panel[d, key]."""
        for d in range(depth):
            for j in range(score_pitch - keys):
                panel[d * score_pitch + keys + j] = T.float32(0)
        for j in range(whole_keys):
            for d in range(whole_depth):
                turn(panel, d * lanes * score_pitch + j * lanes, k, start + j * lanes * k_row + d * lanes)
        for j in range(whole_keys * lanes):
            for d in range(depth - whole_depth * lanes):
                panel[(whole_depth * lanes + d) * score_pitch + j] = k[
                    start + j * k_row + (whole_depth * lanes + d) * k_column
                ]
        for d in range(depth):
            for j in range(keys - whole_keys * lanes):
                panel[d * score_pitch + whole_keys * lanes + j] = k[
                    start + (whole_keys * lanes + j) * k_row + d * k_column
                ]

    @T.inline
    def pack_values(v, start, panel):
        for j in range(keys):
            for d in range(width):
                panel[j * value_pitch + d] = v[start + j * v_row + d * v_column]
            for d in range(value_pitch - width):
                panel[j * value_pitch + width + d] = T.float32(0)

    @T.inline
    def copy_mask(shift, start, to, count):
        """The mask of `count` queries; keys that are there for the sake of whole vectors get no weight."""
        for i in range(count):
            for j in range(keys):
                if masked > 0:
                    to[i * score_pitch + j] = shift[start + i * m_row + j * m_column]
                else:
                    to[i * score_pitch + j] = T.float32(0)
            for j in range(score_pitch - keys):
                to[i * score_pitch + keys + j] = T.float32("-inf")

    @T.inline
    def attend(q, start, keys_panel, values_panel, scores, sums, shift, inverses):
        for tile in range(score_tiles):
            for group in range(rows // score_rows):
                score_product(
                    q, start + group * score_rows * q_row, q_row, q_column, keys_panel, tile * score_tile * lanes,
                    score_pitch, depth, scores, group * score_rows * score_pitch + tile * score_tile * lanes,
                )  # fmt: skip
        for row in range(rows):
            soften(scores, row * score_pitch, shift, row * mask_by_row * score_pitch, inverses, row)
        for tile in range(value_tiles):
            for group in range(rows // value_rows):
                value_product(
                    scores, group * value_rows * score_pitch, score_pitch, 1, values_panel, tile * value_tile * lanes,
                    value_pitch, keys, sums, group * value_rows * value_pitch + tile * value_tile * lanes,
                )  # fmt: skip

    @T.inline
    def run(q, k, v, shift, y):
        q_flat = T.decl_buffer((flat[0],), "float32", data=q.data)
        k_flat = T.decl_buffer((flat[1],), "float32", data=k.data)
        v_flat = T.decl_buffer((flat[2],), "float32", data=v.data)
        m_flat = T.decl_buffer((flat[3],), "float32", data=shift.data)
        y_flat = T.decl_buffer((flat[4],), "float32", data=y.data)
        for task in T.parallel(tasks * parts):
            keys_panel = T.alloc_buffer((depth * score_pitch,), "float32")
            values_panel = T.alloc_buffer((keys * value_pitch,), "float32")
            scores = T.alloc_buffer((rows * score_pitch,), "float32")
            sums = T.alloc_buffer((rows * value_pitch,), "float32")
            bias = T.alloc_buffer((mask_rows * score_pitch,), "float32")
            inverses = T.alloc_buffer((rows,), "float32")
            image: T.let = task // (heads * parts)
            head: T.let = task // parts % heads
            pack_keys(k_flat, k_start + image * k_image + head * k_head, keys_panel)
            pack_values(v_flat, v_start + image * v_image + head * v_head, values_panel)
            if mask_by_row == 0:
                copy_mask(m_flat, m_start + image * m_image + head * m_head, bias, 1)
            for step in range(T.min(per_part, blocks - task % parts * per_part)):
                # The last block reaches back over queries that are done already.
                top: T.let = T.min((task % parts * per_part + step) * rows, queries - rows)
                if mask_by_row > 0:
                    copy_mask(m_flat, m_start + image * m_image + head * m_head + top * m_row, bias, rows)
                attend(
                    q_flat, q_start + image * q_image + head * q_head + top * q_row,
                    keys_panel, values_panel, scores, sums, bias, inverses,
                )  # fmt: skip
                for row in range(rows):
                    for d in range(width):
                        y_flat[y_start + image * y_image + head * y_head + (top + row) * y_row + d * y_column] = (
                            sums[row * value_pitch + d] * inverses[row]
                        )

    return run
