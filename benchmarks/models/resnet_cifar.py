"""ResNet-20 and ResNet-56 for CIFAR-10 (He et al., arXiv:1512.03385, section 4.2), with shortcuts that have no weights.

Where a block halves the map and doubles the channels, its shortcut takes every second row and column and pads zero
channels on both sides (option A). Names of parameters are those of akamaster/pytorch_resnet_cifar10 (BSD-2-Clause).

A narrower network has fewer channels within its blocks; what blocks hand on stays as wide (Li, Kadav, Durdanovic,
Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, section 4.2).
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from hwsparse.errors import ModelError


class Block(nn.Module):
    """Two 3x3 convolutions, `inner` channels between them, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.more = (outputs - inputs) // 2  # zero channels before, and as many after

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h or h / 2, w or w / 2)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """Three stages of `depth` blocks, 16, 32 and 64 channels wide: 6 * depth + 2 layers.

    Within blocks there is a share `keep` of the channels, rounded.
    """

    def __init__(self, depth: int, width: int = 16, classes: int = 10, keep: float = 1.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depth, keep)
        self.layer2 = _stage(width, 2 * width, depth, keep)
        self.layer3 = _stage(2 * width, 4 * width, depth, keep)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, 32, 32), normalised by ImageNet's mean and deviation -> (batch, classes)."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, depth: int, keep: float) -> nn.Sequential:
    inner = max(1, round(keep * outputs))
    return nn.Sequential(Block(inputs, outputs, inner), *(Block(outputs, outputs, inner) for _ in range(depth - 1)))


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


def narrower(network: ResNet, keep: float) -> ResNet:
    """A copy with a share of the channels within its blocks: those whose filters have the largest sum of magnitudes."""
    narrow = ResNet(len(network.layer1), network.conv1.out_channels, network.linear.out_features, keep)
    state = network.state_dict()
    for name, block in network.named_modules():
        if isinstance(block, Block):
            inner = narrow.get_parameter(f"{name}.conv1.weight").shape[0]
            kept = block.conv1.weight.detach().abs().sum((1, 2, 3)).argsort(descending=True)[:inner].sort().values
            state[f"{name}.conv1.weight"] = state[f"{name}.conv1.weight"][kept]
            state[f"{name}.conv2.weight"] = state[f"{name}.conv2.weight"][:, kept]
            for own in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.bn1.{own}"] = state[f"{name}.bn1.{own}"][kept]
    narrow.load_state_dict(state)
    return narrow.eval()
