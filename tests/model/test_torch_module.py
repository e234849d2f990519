"""torch modules: the same results, the modules' own names, and one clear error."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsparse.errors import ModelError
from hwsparse.model import import_torch
from tests.model.graphs import random_feeds, run


class Network(nn.Module):
    """Convolutions with batch norm in two and one dimensions, linear layers over positions, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8, dilation=2)
        self.mixer = nn.Conv1d(8, 4, 3)
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.depthwise(self.stem(x)) + self.stem(x)
        positions = self.mixer(x.flatten(2))
        return self.head(positions.mean(-1)), self.head[1](positions.transpose(1, 2))


def test_a_module_computes_the_same_and_keeps_its_names(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = Network()
    for buffer in module.buffers():
        if buffer.dtype == torch.float32:
            nn.init.uniform_(buffer, 0.5, 1.5)
    module.train()
    module.head.eval()
    model = import_torch(module, (torch.zeros(2, 3, 9, 9),), name="network")
    assert [item.training for item in (module, module.stem, module.head)] == [True, True, False]
    assert capfd.readouterr() == ("", "")

    feeds = random_feeds(model)
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(feeds["x"]))
    for result, wanted in zip(run(model.proto, feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert model.name == "network"
    assert model.inputs[0].shape == (2, 3, 9, 9)
    names = {layer.name for layer in model.layers}
    assert {"depthwise", "mixer"} <= names
    np.testing.assert_array_equal(model.weight("depthwise"), module.depthwise.weight.detach().numpy())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("missing\nkey")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Branching(), "torch cannot export 'm': "),
        (Broken(), "torch cannot export 'm': "),
        (nn.Linear(7, 2), "torch cannot export 'm': "),
        (Random(), "the export of 'm' differs from the module"),
    ],
    ids=["branch", "broken", "wrong shape", "random"],
)
def test_what_cannot_be_exported(module: nn.Module, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    module.train()
    with pytest.raises(ModelError) as caught:
        import_torch(module, (torch.ones(2, 4),), name="m")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert module.training


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="needs torch: pip install torch"):
        import_torch(nn.Linear(2, 2), (), name="m")
