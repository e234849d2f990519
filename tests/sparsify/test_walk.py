"""Means of what two networks read, against their inputs; and what is kept while they walk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.model.tokens import shortened
from hwsparse.sparsify import walk
from hwsparse.sparsify.walk import Moments, SideBySide
from tests.data.test_answers import sentence_model, sentences
from tests.model.graphs import model_proto, node, stored, value

WIDTH, ROWS = 5, 12


def biased() -> Model:
    """y = (x A + u) B + v."""
    rng = np.random.default_rng(0)
    nodes = [node("Gemm", ["x", "a", "u"], ["h"], "first"), node("Gemm", ["h", "b", "v"], ["y"], "second")]
    weights = [stored(name, rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)) for name in "ab"]
    weights += [stored(name, rng.standard_normal(WIDTH).astype(np.float32)) for name in "uv"]
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, WIDTH))], weights)
    return import_onnx(proto.SerializeToString(), name="biased")


def rows() -> Dataset:
    x = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    return Dataset("rows", {"x": x}, np.arange(ROWS) % 2)


def moments(model: Model, weights: dict[str, np.ndarray], samples: int) -> Moments:
    layer = model.layer("second")
    with SideBySide(model, model, rows(), samples) as both:
        return both.moments(layer, layer, weights)


def test_means_are_of_what_each_network_reads() -> None:
    model = biased()
    weights = {"first": np.eye(WIDTH, dtype=np.float32), "u": np.full(WIDTH, 2.0, np.float32)}
    found = moments(model, weights, ROWS)
    x = rows().inputs["x"].astype(np.float64)
    own = x + 2
    read = x @ model.weight("first").T + model.constant("u")
    np.testing.assert_allclose(found.own[0], own.T @ own / ROWS, rtol=1e-5)
    np.testing.assert_allclose(found.cross[0], read.T @ own / ROWS, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.own_mean[0, :, 0], own.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.mean[0, :, 0], read.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_no_more_samples_than_memory_is_meant_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased()
    few = moments(model, {}, 3)
    assert not np.allclose(few.own, moments(model, {}, ROWS).own)
    # What the first layer made waits for the second, in two networks.
    monkeypatch.setattr(walk, "MAX_BYTES", 3 * 2 * 4 * WIDTH)
    np.testing.assert_array_equal(few.own, moments(model, {}, ROWS).own)
    monkeypatch.setattr(walk, "MAX_BYTES", 0)
    np.testing.assert_array_equal(moments(model, {}, ROWS).own, moments(model, {}, 1).own)


def test_what_later_layers_still_read_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight layers in a row, and a last one that reads the sum of what all of them made."""
    count, rng = 8, np.random.default_rng(0)
    made = ["x", *(f"h{number}" for number in range(count))]
    nodes = [node("MatMul", [x, f"a{y}"], [y], f"layer_{y}") for x, y in pairwise(made)]
    nodes += [node("Sum", made[1:], ["sum"]), node("MatMul", ["sum", "a"], ["y"], "last")]
    weights = [stored(f"a{y}", rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)) for y in (*made[1:], "")]
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, WIDTH))], weights)
    model = import_onnx(proto.SerializeToString(), name="summed")
    monkeypatch.setattr(walk, "MAX_BYTES", 5 * 2 * (count - 1) * 4 * WIDTH)
    kept = []
    with SideBySide(model, model, rows(), ROWS) as both:
        for layer in model.layers:
            both.moments(layer, layer, {})
            samples = [*both._dense._kept, *both._pruned._kept]
            kept.append(sum(values.nbytes for each in samples for name, values in each.items() if name != "x"))
    # Five samples in two networks: of each all that was made so far, and before the last layer the sum alone.
    assert kept == [5 * 2 * waiting * 4 * WIDTH for waiting in (*range(count), 1)]


@pytest.mark.parametrize(
    ("masked", "lengths", "fewer"),
    [
        (True, [3, 4, 7, 8, 1, 2], [4, 8]),
        (True, [3, 4, 7, 8, 1, 17], [4, 8]),
        (True, [17, 18, 32, 29, 20, 31], []),
        (False, [3, 4, 7, 8, 1, 2], []),
    ],
)
def test_sentences_are_walked_over_no_more_tokens_than_hold_them(
    masked: bool, lengths: list[int], fewer: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means are those over all tokens, where padding counts for nothing."""
    model, data, cuts = sentence_model(masked=masked), sentences(lengths), list[int]()

    def noted(proto: bytes, made_for: int, tokens: int) -> bytes:
        cuts.append(tokens)
        return shortened(proto, made_for, tokens)

    def found() -> list[Moments]:
        weights = {layer.name: model.weight(layer.name) / 2 for layer in model.layers}
        with SideBySide(model, model, data, len(lengths)) as both:
            return [both.moments(layer, layer, weights) for layer in model.layers]

    monkeypatch.setattr(walk, "shortened", noted)
    cut = found()
    assert sorted(cuts) == sorted(2 * fewer)  # of both networks
    monkeypatch.setattr(walk, "fewer_tokens", lambda *given: ())
    for few, all_of_them in zip(cut, found(), strict=True):
        for name in ("own", "cross", "own_mean", "mean"):
            np.testing.assert_allclose(getattr(few, name), getattr(all_of_them, name), rtol=1e-4, atol=1e-6)


def test_what_is_not_of_the_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="constant 'u'"):
        moments(biased(), {"u": np.zeros(2, np.float32)}, 2)
