"""ResNet-50 and ResNet-34 with random weights, for timing: the published ones are not to be had from a package.

The networks of He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, table 1, with the stride in
the 3x3 convolution of a block. Input 1x3x224x224, output 1000 logits. Sparse kernels' time depends on where zeros
are, not on what the other weights are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwsparse.model import Model, import_torch

# Blocks, and channels of their 3x3 convolutions, of each stage.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution padded to keep the size, and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """Convolutions beside a shortcut: two, or of a bottleneck three, whose last has four times the channels."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            steps = [
                convolution(inputs, width, 1),
                convolution(width, width, 3, stride),
                convolution(width, outputs, 1),
            ]
        else:
            steps = [convolution(inputs, width, 3, stride), convolution(width, outputs, 3)]
        activated = [part for step in steps[:-1] for part in (step, nn.ReLU())]
        self.body = nn.Sequential(*activated, steps[-1])
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Images to 1000 logits."""

    def __init__(self, bottleneck: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, inputs = [], 64
        for stage, (count, width) in enumerate(STAGES):
            for index in range(count):
                blocks.append(Block(inputs, width, 2 if stage and not index else 1, bottleneck))
                inputs = width * 4 if bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, 224, 224) -> (batch, 1000)."""
        scores: Tensor = self.classifier(self.blocks(self.stem(x)).mean((2, 3)))
        return scores


def resnet50(batch: int = 1) -> Model:
    """The network of bottlenecks as a model for `batch` images, the same weights every time."""
    return _resnet("resnet50", True, batch)


def resnet34(batch: int = 1) -> Model:
    """The one without, of the same stages."""
    return _resnet("resnet34", False, batch)


def _resnet(name: str, bottleneck: bool, batch: int) -> Model:
    torch.manual_seed(0)
    return import_torch(ResNet(bottleneck), (torch.zeros(batch, 3, 224, 224),), name=name)
