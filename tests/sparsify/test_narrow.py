"""Narrower networks: what they compute, what is kept of them, and what cannot be narrowed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.model.coupling import couple, without
from hwsparse.sparsify import Narrower, narrowed_shape, pruned_model, pruned_proto
from hwsparse.sparsify.narrow import families
from tests.model.graphs import model_proto, node, run, stored, value, weight
from tests.model.test_coupling import attention, residual
from tests.sparsify.networks import classifier, images, product

HIDDEN, WIDTH = 32, 6


def redundant() -> Model:
    """y = B relu(A x + u) + v, with every hidden channel there four times: eight tell all."""
    rng = np.random.default_rng(0)
    first = np.tile(rng.standard_normal((HIDDEN // 4, WIDTH)), (4, 1)).astype(np.float32)
    last = rng.standard_normal((3, HIDDEN)).astype(np.float32)
    nodes = [
        node("Gemm", ["x", "a", "u"], ["h"], "first", transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "b", "v"], ["y"], "last", transB=1),
    ]
    biases = np.tile(rng.standard_normal(HIDDEN // 4), 4), rng.standard_normal(3)
    arrays = zip("abuv", (first, last, *biases), strict=True)
    weights = [stored(name, array.astype(np.float32)) for name, array in arrays]
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, 3))], weights)
    return import_onnx(proto.SerializeToString(), name="redundant")


def normed() -> Model:
    """y = norm(x + B relu(A x)): hidden channels can go, what is normalised stays."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Gemm", ["x", "a", "u"], ["h"], "first", transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "b", "v"], ["p"], "last", transB=1),
        node("Add", ["x", "p"], ["s"]),
        node("LayerNormalization", ["s", "g", "t"], ["y"], "norm"),
    ]
    shapes = {"a": (HIDDEN, WIDTH), "u": HIDDEN, "b": (WIDTH, HIDDEN), "v": WIDTH, "g": WIDTH, "t": WIDTH}
    weights = [stored(name, rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()]
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, WIDTH))], weights)
    return import_onnx(proto.SerializeToString(), name="normed")


def rows(count: int = 200) -> Dataset:
    x = np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32)
    return Dataset("rows", {"x": x}, np.arange(count) % 3)


def answers(model: Model, dataset: Dataset) -> np.ndarray:
    feeds = [{name: values[row : row + 1] for name, values in dataset.inputs.items()} for row in range(dataset.rows)]
    return np.stack([run(model.proto, feed)[0] for feed in feeds])


def within(model: Model, tensor: str, dataset: Dataset) -> np.ndarray:
    """What a tensor of a model holds, sample by sample."""
    proto = onnx.load_from_string(model.proto)
    proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    x = dataset.inputs["x"]
    return np.concatenate([run(proto.SerializeToString(), {"x": x[row : row + 1]})[-1] for row in range(len(x))])


def test_what_others_tell_as_well_is_not_missed() -> None:
    model, dataset = redundant(), rows()
    narrow = Narrower(model, dataset).narrow(0.25)
    assert [layer.weight_shape for layer in narrow.layers] == [(8, WIDTH), (3, 8)]
    expected = answers(model, dataset)
    # The ridge of least squares is 1 % of an input's power.
    assert np.square(answers(narrow, dataset) - expected).mean() < 2e-3 * np.square(expected).mean()


def test_the_better_channels_are_kept_and_fitted() -> None:
    """Half of the classifier's channels: far better than the first half of each family, as they are."""
    model, dataset = classifier(), images(60)
    coupling = couple(model)
    narrow = Narrower(model, dataset, seed=3).narrow(0.5)
    assert [layer.outputs for layer in narrow.layers][-1] == 10
    assert sum(layer.macs for layer in narrow.layers) < 0.6 * sum(layer.macs for layer in model.layers)
    removed = np.zeros(1 + coupling.units, bool)
    for units, _ in families(model, coupling):
        removed[units[len(units) // 2 :]] = True
    plain, expected = answers(without(model, coupling, removed), dataset), answers(model, dataset)
    assert np.square(answers(narrow, dataset) - expected).mean() < 0.5 * np.square(plain - expected).mean()


def test_depthwise_layers_are_fitted_to_what_they_read_now() -> None:
    """They read what a layer makes of fewer channels."""
    nodes = [
        node("Conv", ["x", "a"], ["p"], "first", pads=[1] * 4),
        node("Relu", ["p"], ["q"]),
        node("Conv", ["q", "b"], ["r"], "middle"),
        node("Conv", ["r", "c"], ["s"], "depthwise", group=16, pads=[1] * 4),
        node("Conv", ["s", "d"], ["y"], "last"),
    ]
    weights = [weight("a", 32, 8, 3, 3), weight("b", 16, 32, 1, 1), weight("c", 16, 1, 3, 3), weight("d", 4, 16, 1, 1)]
    proto = model_proto(nodes, [value("x", [1, 8, 9, 7])], [value("y", [1, 4, 9, 7])], weights)
    model, dataset = import_onnx(proto.SerializeToString(), name="separable"), images(60)
    narrower = Narrower(model, dataset)
    narrow, cut = narrower.narrow(0.5), narrower.cut(model, 0.5)
    assert narrow.weight("depthwise").shape == cut.weight("depthwise").shape == (8, 1, 3, 3)
    assert not np.array_equal(narrow.weight("depthwise"), cut.weight("depthwise"))
    # By hand: the same channels, and each layer before it as it was fitted.
    unfitted = pruned_model(narrow, {"depthwise": cut.weight("depthwise")})
    rows = [row.tobytes() for row in cut.weight("depthwise")]
    kept = [place for place, row in enumerate(model.weight("depthwise")) if row.tobytes() in rows]
    wanted = within(model, "s", dataset)[:, kept]
    lost = [np.square(within(each, "s", dataset) - wanted).mean() for each in (narrow, unfitted)]
    assert lost[0] < lost[1]


def test_by_magnitude_those_go_that_weigh_least_whatever_the_samples() -> None:
    model, dataset = redundant(), rows(50)
    weight = model.weight("last").astype(np.float64)
    kept = np.sort(np.argsort(np.square(weight).sum(axis=0))[-16:])
    cut = Narrower(model, dataset, by_magnitude=True).cut(model, 0.5)
    np.testing.assert_array_equal(cut.weight("last"), model.weight("last")[:, kept])
    np.testing.assert_array_equal(cut.weight("first"), model.weight("first")[kept])


def test_all_of_it_is_the_model_itself() -> None:
    model, dataset = redundant(), rows(50)
    narrow = Narrower(model, dataset).narrow(1.0)
    np.testing.assert_allclose(answers(narrow, dataset), answers(model, dataset), rtol=1e-3, atol=1e-4)


def test_families_and_what_is_kept_of_them() -> None:
    """Channels in multiples of eight, heads one by one, never none; the same every time."""
    model = attention()
    assert [(len(units), multiple) for units, multiple in families(model, couple(model))] == [(3, 1), (9, 8)]
    tokens = np.random.default_rng(0).standard_normal((20, 5, 6)).astype(np.float32)
    narrower = Narrower(model, Dataset("tokens", {"x": tokens}, np.arange(20) % 2))
    narrow = narrower.narrow(0.6)
    assert narrow.layer("query").weight_shape == narrow.layer("value").weight_shape == (4, 6)
    assert narrow.layer("wide").outputs == 8
    assert narrow.digest == narrower.narrow(0.6).digest
    assert narrower.narrow(0.01).layer("query").outputs == 2
    assert [len(units) for units, _ in families(residual(), couple(residual()))] == [8, 5, 3]


@pytest.mark.parametrize("keep", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("network", [classifier, attention, normed])
def test_with_zeros_for_channels_the_whole_network_computes_what_the_narrow_one_does(
    network: Callable[[], Model], keep: float
) -> None:
    model = network()
    tokens = np.random.default_rng(0).standard_normal((20, 5, 6)).astype(np.float32)
    dataset = Dataset("tokens", {"x": tokens}, np.arange(20) % 2)
    if network is not attention:
        dataset = images(20) if network is classifier else rows(40)
    narrower = Narrower(model, dataset)
    narrow = narrower.narrow(keep)
    weights = narrower.widened(narrow, keep)
    whole = import_onnx(pruned_proto(model, weights), name="whole")
    np.testing.assert_allclose(answers(whole, dataset), answers(narrow, dataset), rtol=1e-4, atol=1e-5)
    again = narrower.cut(whole, keep)
    np.testing.assert_array_equal(answers(again, dataset), answers(narrow, dataset))
    if network is normed and keep < 1:
        assert not np.array_equal(narrow.constant("g"), model.constant("g"))
    removed = {layer.name: np.mean(weights[layer.name] == 0) for layer in model.layers}
    assert (max(removed.values()) > 0.2) == (keep < 1)


@pytest.mark.parametrize("keep", [0.01, 0.4, 0.75, 1.0])
def test_the_shape_of_a_narrower_network_is_known_before_it_is_fitted(keep: float) -> None:
    model, dataset = classifier(), images(20)
    shapes = [layer.weight_shape for layer in Narrower(model, dataset).narrow(keep).layers]
    assert [layer.weight_shape for layer in narrowed_shape(model, keep).layers] == shapes
    with pytest.raises(ModelError, match="no channels that can be removed"):
        narrowed_shape(product(np.eye(WIDTH, dtype=np.float32)), keep)


def test_what_cannot_be_narrowed() -> None:
    with pytest.raises(ModelError, match="no channels that can be removed"):
        Narrower(product(np.eye(WIDTH, dtype=np.float32)), rows())
    narrower = Narrower(redundant(), rows(20))
    for keep in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ModelError, match="between 0 and 1"):
            narrower.narrow(keep)
    with pytest.raises(DataError, match="cannot run"):
        Narrower(redundant(), Dataset("other", {"x": np.zeros((4, WIDTH + 1), np.float32)}, np.arange(4) % 2))
