"""How positions are cut into tiles and shared out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.codegen.cpu.geometry import Geometry, Variant, choose_variant, tiling_of, variants
from tests.codegen.layers import CPU, conv, product

WIDE = replace(CPU, vector_bits=512, vector_registers=32, cores=8)


@pytest.mark.parametrize(
    ("size", "vectors", "threads", "count", "widths", "rests", "chunks"),
    [
        ((14, 14), 3, 2, 4, (48, 52), (0, 4), 1),  # four positions left over go to the last tile
        ((14, 14), 5, 1, 3, (80, 36), (0, 4), 1),
        ((14, 14), 5, 2, 3, (80, 36), (0, 4), 2),  # three tiles for two threads: rows are shared out
        ((7, 7), 3, 2, 1, (49, 49), (4, 4), 2),
        ((28, 28), 5, 2, 10, (80, 64), (0, 0), 1),
        ((8, 8), 4, 2, 1, (64, 64), (0, 0), 2),
    ],
)
def test_tiles_cover_a_map_and_threads(  # type: ignore[no-untyped-def]
    size, vectors: int, threads: int, count: int, widths, rests, chunks: int
) -> None:
    geometry = Geometry.of(conv(1, 8, size, 16, (1, 1)))
    tiling = tiling_of(geometry, 4, Variant(vectors, 8, False), WIDE.with_threads(threads))
    assert (tiling.count, tiling.chunks) == (count, chunks)
    assert (tiling.tile.width, tiling.last.width) == widths
    assert (tiling.tile.rest, tiling.last.rest) == rests


def test_where_there_are_no_registers_left_what_is_left_over_is_a_tile() -> None:
    geometry = Geometry.of(conv(1, 8, (10, 10), 16, (1, 1)))
    assert tiling_of(geometry, 4, Variant(3, 8, False), WIDE).count == 2
    assert tiling_of(geometry, 16, Variant(3, 8, False), WIDE).count == 3


@given(
    st.integers(1, 3), st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 2, 4, 16]), st.integers(1, 5),
    st.sampled_from([128, 256, 512]), st.booleans(),
)  # fmt: skip
def test_every_variant_covers_all_positions_within_its_panel(
    batch: int, height: int, width: int, shared: int, threads: int, bits: int, tokens: bool
) -> None:
    layer = product((batch * height * width,), 8, 16) if tokens else conv(batch, 8, (height, width), 16, (1, 1))
    geometry, target = Geometry.of(layer), replace(WIDE, vector_bits=bits).with_threads(threads)
    found = variants(geometry, shared, target)
    assert found[0] == choose_variant(geometry, shared, target)
    for variant in found:
        tiling = tiling_of(geometry, shared, variant, target)
        assert (tiling.count - 1) * tiling.tile.width + tiling.last.width == geometry.positions
        for tile in (tiling.tile, tiling.last):
            assert tile.width <= tile.size(tiling.lanes) <= tiling.panel.pitch
        assert 1 <= tiling.chunks <= threads
