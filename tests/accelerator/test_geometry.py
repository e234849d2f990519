"""What positions read, against onnxruntime's convolution; and what is fetched for it, against sets of cells."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwsparse.accelerator import Geometry, lay_out
from hwsparse.accelerator.geometry import fetched_cells, touched_elements
from hwsparse.accelerator.tiling import chunks, input_bytes
from hwsparse.errors import PlanError, UnsupportedError
from hwsparse.pattern import Dense, Unstructured
from hwsparse.plan import Layer, Window, parse_signature

SIGNATURES = (
    "conv 1x3x7x6 w4x3x3x3 s2x1 p1,0_0,1 d1x1 g1 float32",
    "conv 2x4x5x5 w3x4x2x2 s1x1 p0,0_0,0 d2x2 g1 float32",
    "conv 2x2x9 w5x2x3 s2 p1,1 d1 g1 float32",
    "conv 1x2x3x4x3 w2x2x2x2x2 s1x2x1 p0,1_0,0_1,0 d1x1x1 g1 float32",
)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_products_over_what_positions_read_are_the_convolution(signature: str) -> None:
    layer = parse_signature(signature)
    assert layer.window is not None
    random = np.random.default_rng(0)
    weight = random.integers(-9, 9, layer.weight_shape).astype(np.float32)
    inputs = random.integers(-9, 9, layer.input_shape).astype(np.float32)
    product = lay_out(layer, weight, np.ones(weight.shape, bool))
    sums = product.weight @ product.geometry.columns(inputs)
    expected = np.moveaxis(_convolve(layer, layer.window, weight, inputs), 1, 0).reshape(layer.outputs, -1)
    assert np.array_equal(expected, sums)
    # About another zero, which lies beyond the edge too, sums are moved by as much for every window.
    moved = product.weight @ product.geometry.columns(inputs + 5, 5)
    assert np.array_equal(moved - 5 * product.weight.sum(axis=1, keepdims=True), expected)


def _convolve(layer: Layer, window: Window, weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    pads = [pair[0] for pair in window.pads] + [pair[1] for pair in window.pads]
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=window.strides, pads=pads, dilations=window.dilations, group=1
    )
    specs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", inputs.shape), ("w", weight.shape), ("y", layer.output_shape))
    ]
    model = helper.make_model(
        helper.make_graph([node], "g", specs[:2], specs[2:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": inputs, "w": weight})[0]
    return found


def test_a_matrix_product_reads_one_cell_a_position() -> None:
    geometry = Geometry.of(parse_signature("matmul 2x5x12 w7x12 float32"))
    assert (geometry.positions, geometry.inputs, geometry.map_elements) == (10, 12, 120)
    rows = np.arange(120, dtype=np.float32).reshape(10, 12)
    assert np.array_equal(geometry.columns(rows.T[None]), rows.T)


@given(st.sampled_from(SIGNATURES), st.integers(1, 7), st.integers(1, 40))
def test_each_cell_of_a_tile_is_fetched_once(signature: str, tile: int, most: int) -> None:
    geometry = Geometry.of(parse_signature(signature))
    cells, channels = geometry.cells(), geometry.channels
    spans = chunks(geometry, most, 1)
    found = input_bytes(geometry, tile, spans, 2)
    for number in range(-(-geometry.positions // tile)):
        for chunk, (start, end) in enumerate(spans):
            wanted = {
                (cell, k % channels)
                for k in range(start, end)
                for cell in cells[k // channels, number * tile : (number + 1) * tile].tolist()
                if cell >= 0
            }
            assert found[number, chunk] == 2 * len(wanted)
    assert touched_elements(geometry) <= geometry.map_elements


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 200), st.sampled_from([1, 2, 4]))
def test_chunks_are_whole_places_or_parts_of_one(channels: int, kernel: int, most: int, step: int) -> None:
    channels, most = channels * step, max(most, step)
    geometry = Geometry(1, channels, (9,), (kernel,), Window((1,), ((0, 0),), (1,)))
    found = chunks(geometry, most, step)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == geometry.inputs
    for start, end in found:
        assert 0 < end - start <= most and start % step == end % step == 0
        assert (end - start) % channels == 0 or start // channels == (end - 1) // channels


def test_what_is_fetched_is_never_less_than_what_is_there() -> None:
    geometry = Geometry.of(parse_signature(SIGNATURES[0]))
    assert fetched_cells(geometry, geometry.positions, ((0, 9),))[0, 0] * 3 == touched_elements(geometry)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": ()}, "1 to 3 axes"),
        ({"channels": 0}, "1 at least"),
        ({"sizes": (1, 1)}, "some window fits"),
        ({"sizes": (1 << 20, 1 << 20)}, "too many"),
    ],
)
def test_a_map_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    whole = {"batch": 1, "channels": 3, "sizes": (8, 8), "kernel": (3, 3)} | changes
    with pytest.raises(PlanError, match=said):
        Geometry(window=Window((1, 1), ((0, 0), (0, 0)), (1, 1)), **whole)  # type: ignore[arg-type]


def test_groups_are_the_hosts() -> None:
    layer = parse_signature("conv 1x8x7x7 w8x1x3x3 s1x1 p1,1_1,1 d1x1 g8 float32")
    with pytest.raises(UnsupportedError, match="no convolutions in groups"):
        lay_out(layer, np.ones(layer.weight_shape, np.float32), np.ones(layer.weight_shape, bool))


def test_a_mask_without_a_pattern_is_dense_or_unstructured() -> None:
    layer = parse_signature("matmul 5x12 w7x12 float32")
    weight, mask = np.ones((7, 12), np.int8), np.ones((7, 12), bool)
    assert lay_out(layer, weight, mask).pattern == Dense()
    mask[3, 4] = False
    assert lay_out(layer, weight, mask).pattern == Unstructured()


def test_arrays_of_another_layer_are_refused() -> None:
    layer = parse_signature("matmul 5x12 w7x12 float32")
    with pytest.raises(PlanError, match=r"a weight of \(7, 12\) is wanted, not \(12, 7\)"):
        lay_out(layer, np.ones((12, 7), np.float32), np.ones((12, 7), bool))
    with pytest.raises(PlanError, match="not finite"):
        lay_out(layer, np.full((7, 12), np.nan, np.float32), np.ones((7, 12), bool))
    with pytest.raises(PlanError, match="weights are int8"):
        lay_out(layer, np.ones((7, 12), np.float64), np.ones((7, 12), bool))
    for dtype, pad in ((np.int8, 128), (np.float32, 1)):
        with pytest.raises(PlanError, match=f"beyond the edge are zeros, or of int8 -128 to 127, not {pad}"):
            lay_out(layer, np.ones((7, 12), dtype), np.ones((7, 12), bool), pad=pad)
    with pytest.raises(PlanError, match="outputs and residuals are int8 or float32, not of 2 and 0 bytes"):
        lay_out(layer, np.ones((7, 12), np.int8), np.ones((7, 12), bool), output_bytes=2)
