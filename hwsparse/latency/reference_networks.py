"""Layers of the networks whose published times the estimator is fitted to, in the order in which they run.

MobileNets (Howard et al., MobileNets, 2017, table 1; Sandler et al., MobileNetV2, 2018, table 2), EfficientNet-B0 and
B1 (Tan and Le, EfficientNet, 2019, table 1) and ResNet-50 (He et al., Deep Residual Learning, 2016, table 1, with the
stride in the 3x3 convolution). Knows nothing of times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hwsparse.errors import InputError
from hwsparse.plan import Layer, Window

CLASSES = 1000


def convolution(
    channels: int,
    size: tuple[int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: int = 1,
    pads: tuple[int, int] | None = None,
    *,
    depthwise: bool = False,
) -> Layer:
    """A convolution of batch 1, without names; padded to the same size unless `pads` says otherwise."""
    above, left = pads if pads is not None else (kernel[0] // 2, kernel[1] // 2)
    height = (size[0] + 2 * above - kernel[0]) // stride + 1
    width = (size[1] + 2 * left - kernel[1]) // stride + 1
    per_group = 1 if depthwise else channels
    return Layer(
        "", "Conv", "", (outputs, per_group, *kernel), (1, channels, *size), (1, outputs, height, width),
        outputs * height * width * per_group * math.prod(kernel),
        Window((stride, stride), ((above, above), (left, left)), (1, 1), channels if depthwise else 1),
    )  # fmt: skip


@dataclass(slots=True)
class _Network:
    """Layers so far, and what the next one reads."""

    channels: int = 3
    size: int = 224
    layers: list[Layer] = field(default_factory=list)

    def add(self, outputs: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> None:
        layer = convolution(
            self.channels, (self.size, self.size), outputs, (kernel, kernel), stride, depthwise=depthwise
        )
        self.layers.append(layer)
        self.channels, self.size = outputs, layer.output_shape[-1]

    def depthwise(self, kernel: int, stride: int) -> None:
        self.add(self.channels, kernel, stride, depthwise=True)

    def classify(self) -> tuple[Layer, ...]:
        self.size = 1
        self.add(CLASSES)
        return tuple(self.layers)


def _mobilenet_v1(width: float) -> tuple[Layer, ...]:
    net = _Network()
    net.add(_eights(32 * width), 3, 2)
    for outputs, stride in (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ):  # fmt: skip
        net.depthwise(3, stride)
        net.add(_eights(outputs * width))
    return net.classify()


# Kernel, expansion, outputs, repeats, stride.
_V2_STAGES = (
    (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (3, 6, 32, 3, 2), (3, 6, 64, 4, 2), (3, 6, 96, 3, 1), (3, 6, 160, 3, 2),
    (3, 6, 320, 1, 1),
)  # fmt: skip
_EFFICIENT_STAGES = (
    (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1), (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)  # fmt: skip


def _inverted(
    stages: tuple[tuple[int, ...], ...], width: float, depth: float, size: int, *, squeeze: bool, last: int
) -> tuple[Layer, ...]:
    net = _Network(size=size)
    net.add(_eights(32 * width), 3, 2)
    for kernel, expansion, outputs, repeats, stride in stages:
        for at in range(math.ceil(repeats * depth)):
            narrow = net.channels
            if expansion > 1:
                net.add(narrow * expansion)
            net.depthwise(kernel, stride if at == 0 else 1)
            if squeeze:
                wide, between = net.channels, max(1, narrow // 4)
                net.layers += [convolution(wide, (1, 1), between, (1, 1)), convolution(between, (1, 1), wide, (1, 1))]
            net.add(_eights(outputs * width))
    net.add(last)
    return net.classify()


def _mobilenet_v2(width: float) -> tuple[Layer, ...]:
    return _inverted(_V2_STAGES, width, 1.0, 224, squeeze=False, last=_eights(1280 * max(1.0, width)))


def _efficientnet(depth: float, size: int) -> Callable[[float], tuple[Layer, ...]]:
    return lambda width: _inverted(_EFFICIENT_STAGES, width, depth, size, squeeze=True, last=_eights(1280 * width))


def _resnet50(width: float) -> tuple[Layer, ...]:
    net = _Network()
    net.add(round(64 * width), 7, 2)
    net.size = 56  # after pooling
    for narrow, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for at in range(repeats):
            channels, size = net.channels, net.size
            if at == 0:
                net.layers.append(convolution(channels, (size, size), 4 * narrow, (1, 1), stride))
            net.add(narrow)
            net.add(narrow, 3, stride if at == 0 else 1)
            net.add(4 * narrow)
    return net.classify()


_NETWORKS: dict[str, Callable[[float], tuple[Layer, ...]]] = {
    "mobilenet-v1": _mobilenet_v1,
    "mobilenet-v2": _mobilenet_v2,
    "mobilenet-v2-cache-aware": _mobilenet_v2,
    "efficientnet-b0": _efficientnet(1.0, 224),
    "efficientnet-b1": _efficientnet(1.1, 240),
    "resnet50": _resnet50,
}


def network(name: str) -> tuple[Layer, ...]:
    """The layers of NAME@WIDTH.

    Raises:
        InputError: no such network.
    """
    family, _, width = name.partition("@")
    try:
        return _NETWORKS[family](float(width))
    except (KeyError, ValueError):
        raise InputError(f"no network {name!r}; known: {', '.join(_NETWORKS)}, each with @WIDTH") from None


def _eights(channels: float) -> int:
    """The nearest multiple of eight that is at most a tenth less, as MobileNets round channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
