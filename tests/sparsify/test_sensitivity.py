"""Trying one layer gives what running the whole pruned network gives."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import parse_choice
from hwsparse.sparsify import magnitude, pruned_proto
from hwsparse.sparsify.loss import DIVERGENCES, LOSSES
from hwsparse.sparsify.sensitivity import Sensitivity
from tests.model.graphs import run
from tests.sparsify.networks import classifier, embedder, images, sentences


def answers(model: Model, weights: dict[str, np.ndarray], dataset: Dataset) -> np.ndarray:
    proto = pruned_proto(model, weights)
    feeds = ({name: values[row : row + 1] for name, values in dataset.inputs.items()} for row in range(dataset.rows))
    return np.stack([run(proto, feed)[0].reshape(-1) for feed in feeds])


@pytest.mark.parametrize(("model", "dataset"), [(classifier(), images(6)), (embedder(), sentences(3))])
def test_one_layer_is_tried_as_in_the_whole_network(model: Model, dataset: Dataset) -> None:
    dense = answers(model, {}, dataset)
    for layer in model.layers:
        weight = magnitude(model.weight(layer.name), None, parse_choice("unstructured@0.6"))
        harm = Sensitivity(model, layer, dataset).harm(weight)
        pruned = answers(model, {layer.name: weight}, dataset)
        loss = LOSSES[dataset.metric]
        assert harm.loss == pytest.approx(
            loss(pruned, dataset.labels) - loss(dense, dataset.labels), rel=1e-4, abs=1e-5
        )
        assert harm.divergence == pytest.approx(DIVERGENCES[dataset.metric](dense, pruned), rel=1e-4, abs=1e-5)
        assert harm.divergence > 0


def test_the_dense_weight_harms_nothing() -> None:
    model, dataset = classifier(), images(4)
    layer = model.layers[0]
    harm = Sensitivity(model, layer, dataset).harm(model.weight(layer.name))
    assert harm.loss == harm.divergence == 0


def test_a_sample_that_cannot_be_run_is_an_error() -> None:
    model, dataset = embedder(), sentences(2)
    far = Dataset("far", {"ids": np.full_like(dataset.inputs["ids"], 99)}, dataset.labels, "spearman")
    with pytest.raises(DataError, match="onnxruntime cannot run a sample of far"):
        Sensitivity(model, model.layers[0], far)


def test_answers_that_are_no_longer_finite_harm_without_end() -> None:
    model, dataset = classifier(), images(4)
    layer = model.layers[-1]
    harm = Sensitivity(model, layer, dataset).harm(np.full(layer.weight_shape, 3e38, np.float32))
    assert harm.loss == harm.divergence == np.inf


def test_a_dense_network_that_runs_away_is_refused() -> None:
    model, dataset = classifier(), images(4)
    large = Dataset("large", {"x": np.sign(dataset.inputs["x"]) * np.float32(3e38)}, dataset.labels)
    with pytest.raises(DataError, match="classifier answers a sample of large with a value that is not finite"):
        Sensitivity(model, model.layers[0], large)
