"""ResNet-20 and ResNet-56 for CIFAR-10 (He et al., arXiv:1512.03385, section 4.2), with shortcuts that have no weights.

Where a block halves the map and doubles the channels, its shortcut takes every second row and column and pads zero
channels on both sides (option A). Names of parameters are those of akamaster/pytorch_resnet_cifar10 (BSD-2-Clause).
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.errors import ModelError


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.more = (outputs - inputs) // 2  # zero channels before, and as many after

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h or h / 2, w or w / 2)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """Three stages of `depth` blocks, 16, 32 and 64 channels wide: 6 * depth + 2 layers."""

    def __init__(self, depth: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depth)
        self.layer2 = _stage(width, 2 * width, depth)
        self.layer3 = _stage(2 * width, 4 * width, depth)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, 32, 32), normalised by ImageNet's mean and deviation -> (batch, classes)."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(depth - 1)))


def resnet_cifar(layers: int, weights: Path) -> ResNet:
    """The trained network of so many layers, ready to be evaluated.

    Raises:
        ModelError: the file does not hold its weights.
    """
    module = ResNet((layers - 2) // 6)
    try:
        module.load_state_dict(load_file(weights))
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{weights} does not hold the weights of ResNet-{layers}: {error}") from None
    return module.eval()
