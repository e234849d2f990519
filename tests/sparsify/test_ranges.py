from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import DataError, ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Choice, Plan
from hwsparse.quantise import Scale, range_name, rounded
from hwsparse.range_methods import METHODS
from hwsparse.sparsify.ranges import as_bytes, coarse_notes, ranges_for, tensor_ranges
from tests.sparsify.networks import product

RNG = np.random.default_rng(0)
W1, W2, W3 = (RNG.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3 for _ in range(3))


def residual_model() -> Model:
    """Two 1x1 layers of one input, added; then a third that nothing is added to."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("Conv", ["positive", "w2"], ["b"], "second"),
        helper.make_node("Add", ["b", "a"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "w3"], ["y"], "third"),
    ]
    shape = [1, 8, 2, 3]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(W1, "w1"), numpy_helper.from_array(W2, "w2"), numpy_helper.from_array(W3, "w3")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="residual")


MODEL = residual_model()
SAMPLES = [{"x": RNG.standard_normal((1, 8, 2, 3)).astype(np.float32)} for _ in range(5)]


def by_hand(x: np.ndarray) -> dict[str, np.ndarray]:
    def conv(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.einsum("oi,bihw->bohw", weight[:, :, 0, 0].astype(np.float64), values)

    positive = np.maximum(x, 0)
    first, second = conv(x, W1), conv(positive, W2)
    return {"x": x, "positive": positive, "a": first, "sum": first + second}


def int8_of(*names: str) -> Plan:
    return Plan.of(MODEL.digest, {name: Choice(dtype="int8") for name in names})


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_what_a_method_makes_of_the_values_of_all_samples(method: str) -> None:
    seen = [by_hand(sample["x"]) for sample in SAMPLES]
    found = tensor_ranges(MODEL, SAMPLES, METHODS[method])
    assert found.keys() == {"x", "positive", "a", "sum"}  # `b` is of the second layer, whose kernel adds
    for name, ends in found.items():
        expected = METHODS[method]()
        for each in seen:
            expected.see(each[name])
        # Values are summed in another order: one may fall into the next bin of a histogram, and out of a range.
        np.testing.assert_allclose(ends, expected.ends, rtol=1e-3, atol=1e-6)


def test_a_network_whose_layers_read_its_input_alone_has_its_range() -> None:
    model = product(np.eye(8, dtype=np.float32))
    x = np.arange(-3, 5, dtype=np.float32).reshape(1, 8)
    assert tensor_ranges(model, [{"x": x}, {"x": 3 * x}], METHODS["averaged"]) == {"x": (-6.0, 8.0)}
    assert tensor_ranges(model, [{"x": x}, {"x": 3 * x}], METHODS["minmax"]) == {"x": (-9.0, 12.0)}


def test_values_without_end_and_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="takes a sample"):
        tensor_ranges(MODEL, [])
    endless = {"x": np.full((1, 8, 2, 3), np.inf, np.float32)}
    with pytest.raises(DataError, match=r"tensor '\w+' holds values that are not finite on sample 2"):
        tensor_ranges(MODEL, [SAMPLES[0], endless])


def test_what_int8_layers_read_has_a_range_and_what_two_of_them_add() -> None:
    ranges = tensor_ranges(MODEL, SAMPLES)
    names = {
        (): set(),
        ("first",): {"x"},
        ("second",): {"positive"},
        ("first", "second"): {"x", "positive", "a"},
        ("third",): {"sum"},
    }
    for layers, tensors in names.items():
        assert set(ranges_for(MODEL, int8_of(*layers), ranges)) == {range_name(name) for name in tensors}


def test_a_range_that_nothing_tells_is_asked_for() -> None:
    known = {"x": (0.0, 1.0), "positive": (0.0, 1.0)}
    with pytest.raises(DataError, match="int8 layers read 'a', and nothing tells between what it lies"):
        ranges_for(MODEL, int8_of("first", "second"), known)


def test_a_network_as_bytes_reads_and_adds_what_they_stand_for() -> None:
    plan, sample = int8_of("first", "second", "third"), SAMPLES[1]
    ranges = tensor_ranges(MODEL, SAMPLES)
    weights = as_bytes(MODEL, plan, {}, ranges)
    again = as_bytes(MODEL, plan, weights, ranges)
    for name, values in weights.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-6)
    w1, w2, w3 = (rounded(weight)[:, :, 0, 0].astype(np.float64) for weight in (W1, W2, W3))

    def near(name: str, values: np.ndarray) -> np.ndarray:
        scale = Scale.of(*(np.float32(end) for end in ranges[name]))
        return scale.scale * (scale.bytes_of(values).astype(np.float64) - scale.zero)

    def conv(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.einsum("oi,bihw->bohw", weight, values)

    first = near("a", conv(near("x", sample["x"]), w1))
    total = first + conv(near("positive", np.maximum(sample["x"], 0)), w2)
    (found,) = onnxruntime_answers(MODEL, weights, sample).values()
    np.testing.assert_allclose(found, conv(near("sum", total), w3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ends", "coarse"),
    [
        ((999, 1001), True),
        ((-1001, -999), True),
        ((1000, 1000), False),  # a byte stands for it
        ((0, 0), False),
        ((-1, 1), False),
        ((1, 1.1), False),
        ((100, 100.3), True),
    ],
)
def test_a_layer_whose_bytes_lie_further_apart_than_what_it_reads_is_named(
    ends: tuple[float, float], coarse: bool
) -> None:
    plan = int8_of("first")
    notes = coarse_notes(MODEL, plan, as_bytes(MODEL, plan, {}, {"x": ends}))
    assert len(notes) == coarse
    if coarse:
        assert notes[0].startswith(f"Layer 'first' reads values from {ends[0]:.6g} to {ends[1]:.6g} as bytes")
    assert coarse_notes(MODEL, Plan(MODEL.digest), {}) == ()


def test_layers_that_stay_in_floats_read_floats() -> None:
    (found,) = onnxruntime_answers(MODEL, as_bytes(MODEL, Plan(MODEL.digest), {}, {}), SAMPLES[0]).values()
    (plain,) = onnxruntime_answers(MODEL, {}, SAMPLES[0]).values()
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ({range_name("nothing"): np.array([0, 1], np.float32)}, ModelError, "no layer reads a tensor 'nothing'"),
        ({range_name("x"): np.array([0, 1, 2], np.float32)}, DataError, "not of the two ends of a range"),
        ({range_name("x"): np.array([0, np.inf], np.float32)}, DataError, "cannot stand for values from"),
    ],
)
def test_ranges_that_are_none_are_refused(weights: dict[str, np.ndarray], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        onnxruntime_answers(MODEL, weights, SAMPLES[0])
