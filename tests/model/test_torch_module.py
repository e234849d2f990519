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


class Quantised(nn.Module):
    """A convolution as training for bytes has it: inputs and weights rounded, in floats."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.conv, self.noise = nn.Conv2d(4, 8, 3), noise

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, 0.05, 60, 0, 255)
        weight = torch.fake_quantize_per_tensor_affine(self.conv.weight, 0.01, 0, -128, 127)
        y = nn.functional.conv2d(x, weight, self.conv.bias)
        return y + self.noise * torch.rand_like(y) if self.noise else y


def test_a_quantised_module_is_the_float_network_with_its_ranges(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module, x = Quantised(), torch.randn(1, 4, 8, 8)
    model = import_torch(module, (x,), name="m")
    (layer,) = model.layers
    weight = torch.fake_quantize_per_tensor_affine(module.conv.weight, 0.01, 0, -128, 127)
    np.testing.assert_allclose(model.weight(layer.name), weight.detach().numpy(), rtol=1e-6)
    assert model.ranges[model.inputs[0].name] == pytest.approx((-3.0, 9.75))
    with torch.no_grad():
        expected = nn.functional.conv2d(x, weight, module.conv.bias)
    np.testing.assert_allclose(run(model.proto, {"x": x.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="the export of 'm' differs from the module"):
        import_torch(Quantised(noise=1.0), (x,), name="m")
    assert capfd.readouterr() == ("", "")


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
