"""Importers: an ONNX file or a torch module becomes a `Model`."""

from hwsparse.model.model import Model, TensorSpec
from hwsparse.model.onnx_file import import_onnx
from hwsparse.model.torch_module import import_torch

__all__ = ["Model", "TensorSpec", "import_onnx", "import_torch"]
