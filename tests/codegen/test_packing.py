"""Packing keeps every weight, whatever the structure, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.codegen.cpu.packing import Packed, pack_rows
from tests.codegen.layers import conv, product


def unpack(packed: Packed, rows: int, columns: int, block: int) -> np.ndarray:
    """The matrix over all panel columns that the lists stand for."""
    shared = packed.values.shape[1]
    groups = len(packed.rows) // shared
    matrix = np.zeros((rows, columns), np.float32)
    for index in range(len(packed.starts) - 1):
        for entry in range(packed.starts[index], packed.starts[index + 1]):
            for slot in range(shared):
                row = packed.rows[index % groups * shared + slot]
                if row >= 0:
                    matrix[row, index // groups * block + packed.offsets[entry]] = packed.values[entry, slot]
    return matrix


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 12),
    shared=st.sampled_from((1, 2, 4, 8, 16)),
    chunks=st.integers(1, 5),
    block=st.integers(1, 12),
    density=st.sampled_from((0.0, 0.1, 0.5, 1.0)),
    seed=st.integers(0, 99),
)
def test_lists_stand_for_the_matrix(
    rows: int, columns: int, shared: int, chunks: int, block: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32) * (rng.random((rows, columns)) < density)
    packed = pack_rows(
        weight, Geometry.of(product((5,), columns, rows)), shared, chunks, block, np.arange(columns) % block
    )
    np.testing.assert_array_equal(unpack(packed, rows, columns, block), weight)
    assert sorted(packed.rows[packed.rows >= 0]) == list(range(rows))
    assert packed.bounds[0] == 0 and packed.bounds[-1] == len(packed.rows) // shared
    assert len(packed.starts) == -(-columns // block) * packed.bounds[-1] + 1
    assert (packed.offsets < block).all()
    assert (np.diff(packed.bounds) >= 0).all() and (np.diff(packed.starts) >= 0).all()


def test_groups_of_a_convolution_have_their_own_columns() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 2, 3, 3)).astype(np.float32)
    packed = pack_rows(weight, Geometry.of(conv(1, 4, (5, 5), 6, (3, 3), groups=2)), 2, 1, 9, np.arange(36) % 9)
    full = np.zeros((6, 36), np.float32)
    full[:3, :18], full[3:, 18:] = weight[:3].reshape(3, 18), weight[3:].reshape(3, 18)
    np.testing.assert_array_equal(unpack(packed, 6, 36, 9), full)


def test_dropped_channels_cost_no_entries() -> None:
    weight = np.ones((16, 10), np.float32)
    weight[1::2] = 0
    packed = pack_rows(weight, Geometry.of(product((5,), 10, 16)), 4, 1, 10, np.arange(10))
    assert len(packed.offsets) == 2 * 10
