"""A torch module becomes a `Model`, by way of torch's ONNX exporter.

The module is captured as torch.export sees it, so control flow that depends on values is an error and is
not silently frozen. Layers carry the names of the submodules they came from. torch is imported when asked for.
"""

from __future__ import annotations

import ast
import io
import logging
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime

from hwsparse.errors import ModelError, one_line
from hwsparse.model.model import Model
from hwsparse.model.onnx_file import import_onnx

if TYPE_CHECKING:
    import torch

_OPSET = 18  # what the exporter writes natively; other versions go through a converter
_SCOPES = "pkg.torch.onnx.name_scopes"
_TOLERANCE = 1e-3
# Of a network that rounds, where a value may tip over to the next byte.
_TOLERANCE_OF_BYTES = 5e-2


def import_torch(module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], *, name: str) -> Model:
    """Imports a torch module in evaluation mode; its training mode is put back afterwards.

    One that is quantised becomes a float network, as `import_onnx` says.

    Args:
        module: the network; its parameters are copied.
        example_inputs: one tensor per argument; their shapes become the model's.
        name: what to call the model.

    Raises:
        ModelError: torch is not installed, cannot export the module, or exported something that computes
            another result than the module; or the export cannot be imported.
    """
    try:
        import torch
    except ImportError:
        raise ModelError("importing a torch module needs torch: pip install torch") from None
    with _evaluation_mode(module), _silence(), torch.no_grad():
        try:
            program = torch.onnx.export(module, example_inputs, dynamo=True, opset_version=_OPSET, verbose=False)
            expected = module(*example_inputs)
        except Exception as error:  # a module may raise anything, and so does the exporter
            raise ModelError(f"torch cannot export {name!r}: {_reason(error)}") from None
    assert program is not None
    proto = program.model_proto
    _name_by_module(proto, {path for path, _ in module.named_modules()})
    exported = proto.SerializeToString()
    model = import_onnx(exported, name=name)
    _check_equal(model, exported, example_inputs, expected)
    return model


def _check_equal(model: Model, exported: bytes, example_inputs: tuple[torch.Tensor, ...], expected: object) -> None:
    """Refuses an export that computes something else, as one does whose module draws random numbers.

    Where the module rounds to bytes, which the model does not, the export itself is looked at.
    """
    import torch
    from torch.utils import _pytree

    options = onnxruntime.SessionOptions()
    if model.ranges:  # or onnxruntime would compute with bytes, which the module does not
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    computes = exported if model.ranges else model.proto
    tolerance = _TOLERANCE_OF_BYTES if model.ranges else _TOLERANCE
    session = onnxruntime.InferenceSession(computes, options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: x.detach().cpu().numpy() for spec, x in zip(model.inputs, example_inputs, strict=True)}
    results = session.run(None, feeds)
    wanted = [leaf for leaf in _pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]
    for spec, result, tensor in zip(model.outputs, results, wanted, strict=True):
        reference = tensor.detach().cpu().numpy()
        if not np.issubdtype(reference.dtype, np.floating):
            continue
        error = float(np.max(np.abs(result - reference)) / max(float(np.max(np.abs(reference))), 1e-6))
        if not error <= tolerance:
            raise ModelError(
                f"the export of {model.name!r} differs from the module by {error:.1e} at output {spec.name!r}; "
                "does the module draw random numbers in evaluation mode?"
            )


def _name_by_module(proto: onnx.ModelProto, modules: Set[str]) -> None:
    """Calls each node after the submodule it came from, as in `layer1.0.conv1`.

    The weight's name says it best: a convolution with a batch norm folded in is said to come from the batch norm.
    """
    for node in proto.graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "[]")
        try:
            from_scopes = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        except (ValueError, SyntaxError):
            from_scopes = []
        if weight.endswith(".weight") and weight.removesuffix(".weight") in modules:
            node.name = weight.removesuffix(".weight")
        elif from_scopes:
            node.name = from_scopes[-1]


def _reason(error: Exception) -> str:
    """What was wrong, from under the exporter's report of the steps it tried."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return one_line(error)


@contextmanager
def _evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    modes = [(item, item.training) for item in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for item, training in modes:
            item.training = training


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporter's remarks, and the graphs it prints when it fails, from users."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    handlers = {handler for name in names for handler in logging.getLogger(name).handlers}
    for handler in handlers:
        handler.addFilter(_drop)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False
