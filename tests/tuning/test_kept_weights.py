"""Pruned weights on their way back into a module whose batch norm was folded."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hwsparse.data import Dataset
from hwsparse.errors import ModelError, PlanError
from hwsparse.model import import_torch
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import correct, make_mask, pruned_proto
from hwsparse.tuning.kept_weights import KeptWeights
from tests.tuning.modules import classifier, pictures, plan_of, pruned


@pytest.mark.parametrize("choice", ["unstructured@0.7", "block4x1@0.5", "2:4", "channel@0.5"])
def test_the_module_becomes_the_pruned_model(choice: str) -> None:
    module, model = classifier()
    plan = plan_of(model, choice, "first", "second")
    weights = pruned(model, plan)
    other = copy.deepcopy(module)
    kept = KeptWeights(other, model, plan)
    kept.start_from(weights)
    again = import_torch(other, (torch.zeros(1, 4, 8, 8),), name="again")
    for layer in model.layers:
        wanted = weights.get(layer.name, model.weight(layer.name))
        np.testing.assert_allclose(again.weight(layer.name), wanted, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(again.weight(layer.name) != 0, wanted != 0)
    zeros = np.concatenate([weights[name].ravel() == 0 for name in ("first", "second")])
    assert kept.ratio == pytest.approx(zeros.mean())


def test_corrected_biases_go_back_as_well() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.7", "first", "second")
    weights = correct(model, pruned(model, plan), pictures(40, 1))
    biases = {layer.bias for layer in model.layers}
    assert None not in biases and biases <= weights.keys()
    KeptWeights(module, model, plan).start_from(weights)
    images = pictures(8, 4).inputs["image"]
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    with torch.no_grad():
        found = module(torch.from_numpy(np.array(images))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_scales_of_layer_norms_go_back_as_well() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    nn.init.normal_(module[1].weight)
    model = import_torch(module, (torch.zeros(1, 6),), name="normed")
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    plan = plan_of(model, "unstructured@0.5", "0")
    weights = correct(model, pruned(model, plan), Dataset("rows", {model.inputs[0].name: rows}, np.arange(40) % 4))
    assert {"1.weight", "1.bias"} <= weights.keys()
    KeptWeights(module, model, plan).start_from(weights)
    np.testing.assert_allclose(module[1].weight.detach(), weights["1.weight"], rtol=1e-6)
    np.testing.assert_allclose(module[1].bias.detach(), weights["1.bias"], rtol=1e-6, atol=1e-7)


def test_outputs_that_batch_norm_sets_to_nothing() -> None:
    module, _ = classifier()
    with torch.no_grad():
        module.first_norm.weight[:3] = 0
    model = import_torch(module, (torch.zeros(1, 4, 8, 8),), name="dead")
    kept = KeptWeights(module, model, plan_of(model, "unstructured@0.7", "first"))
    kept.start_from(pruned(model, plan_of(model, "unstructured@0.7", "first")))
    assert kept.ratio == pytest.approx(0.7, abs=0.01)


def test_what_is_dropped_stays_zero() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.5", "second")
    kept = KeptWeights(module, model, plan)
    kept.start_from(pruned(model, plan))
    before = module.second.weight.detach().clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    kept.hold()
    after = module.second.weight.detach()
    assert torch.equal(after != 0, before != 0)
    torch.testing.assert_close(after[before != 0], before[before != 0] + 1)
    assert module.first.weight.detach().ne(0).all()


def test_growing_drops_what_is_smallest_in_the_model() -> None:
    module, model = classifier()
    kept = KeptWeights(module, model, plan_of(model, "unstructured@0.8", "first"))
    kept.grow(0.5)
    kept.hold()
    ratio = 0.8 * (1 - 0.5**3)
    wanted = make_mask(np.abs(model.weight("first")), parse_choice(f"unstructured@{ratio:g}"))
    np.testing.assert_array_equal(module.first.weight.detach().numpy() != 0, wanted)


def test_what_cannot_be_tuned_is_said() -> None:
    module, model = classifier()
    plan = plan_of(model, "unstructured@0.5", "second")
    with pytest.raises(PlanError, match="another model"):
        KeptWeights(module, model, Plan.of("0" * 64, {"second": parse_choice("2:4")}))
    with pytest.raises(PlanError, match="layer 'last' cannot be block8x1"):
        KeptWeights(module, model, plan_of(model, "block8x1@0.5", "last"))
    with pytest.raises(PlanError, match="no pruned weight"):
        KeptWeights(module, model, plan).start_from({})
    with pytest.raises(ModelError, match="no submodule of that name"):
        KeptWeights(nn.Sequential(module), model, plan)
    with torch.no_grad():
        module.second.weight[0, 0, 0, 0] += 1
    with pytest.raises(ModelError, match="'second' of classifier"):
        KeptWeights(module, model, plan)


def test_a_weight_that_is_not_finite_is_said() -> None:
    module, model = classifier()
    kept = KeptWeights(module, model, plan_of(model, "unstructured@0.5", "second"))
    with torch.no_grad():
        module.second.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(PlanError, match="layer 'second': a weight's score is not finite"):
        kept.grow(0.5)
