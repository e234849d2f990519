"""What is pruned, by shape alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.networks import LAYERS, NETWORKS, distinct_layers, plan_for, sparse_choice
from hwsparse.errors import InputError, PatternError, PlanError
from hwsparse.model import TensorSpec
from hwsparse.plan import parse_choice
from tests.sparsify.networks import classifier, embedder


def test_a_rule_chooses_layers_by_place_and_shape() -> None:
    model = classifier()
    chosen = {rule: [layer.name for layer in choose(model.layers)] for rule, choose in LAYERS.items()}
    assert chosen == {
        "every": ["first", "grouped", "depthwise", "last"],
        "inner": ["grouped", "depthwise"],
        "pointwise": [],
    }
    assert {network.layers for network in NETWORKS.values()} == set(LAYERS)


def test_a_plan_leaves_out_what_cannot_be_sparse() -> None:
    model, choice = classifier(), sparse_choice("block4x1", 0.5)
    assert dict(plan_for(model, "inner", choice).choices) == {"grouped": choice}
    with pytest.raises(PlanError, match=r"of classifier's layers \(pointwise\) none can be block4x1@0.5"):
        plan_for(model, "pointwise", choice)


def test_layers_that_cost_the_same_are_measured_once() -> None:
    assert [layer.name for layer in distinct_layers([embedder(), classifier(), embedder()])] == [
        "right",
        "first",
        "grouped",
        "depthwise",
        "last",
    ]


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_a_sparse_choice_has_zeros_and_weights(ratio: float) -> None:
    assert sparse_choice("2:4", 0.5) == parse_choice("2:4")
    with pytest.raises(InputError, match="between 0 and 1"):
        sparse_choice("unstructured", ratio)
    with pytest.raises(PatternError):
        sparse_choice("2:4", 0.9)


def test_sentences_are_drawn_anew_for_every_seed_without_padding() -> None:
    ports = tuple(TensorSpec(name, (2, 5), "int64") for name in ("input_ids", "attention_mask"))
    model = replace(embedder(), inputs=ports)
    first, second = (NETWORKS["minilm"].draw(model, seed) for seed in (0, 1))
    assert first["input_ids"].shape == (2, 5) and (first["input_ids"] != second["input_ids"]).any()
    assert first["attention_mask"].all() and first["attention_mask"].dtype == "int64"
