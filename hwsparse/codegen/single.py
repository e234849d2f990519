"""One layer as a library of its own, for timing: the same lowering and kernels as in a whole model.

A kernel's code does not depend on the ratio, nor on which pattern made rows share index lists: a layer's library is
compiled once for each kernel, and given parameters of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from hwsparse.codegen.build import compile_module, export, write_parameters
from hwsparse.codegen.library import LIBRARY, REFERENCE, random_inputs
from hwsparse.codegen.lowering import lower
from hwsparse.errors import writing
from hwsparse.model import Model, TensorSpec
from hwsparse.plan import Choice, Layer, Plan
from hwsparse.sparsify.mask import make_mask
from hwsparse.target import Target

OPSET = 17


def build_layer(
    layer: Layer, choice: Choice, target: Target, directory: Path, kernel: str | None = None, seed: int = 0
) -> None:
    """Builds a layer, with random weights pruned as `choice` says and a bias, into `directory`: a `Library`.

    onnxruntime's answer on random inputs is stored beside it, for `Library.check`. Nothing is loaded: the code may be
    another machine's.

    Args:
        kernel: one of `kernels_for`; the first of them if None.

    Raises:
        CompileError: TVM or the linker refused the program, or there is no such kernel.
        PatternError: the choice cannot be applied to the layer.
    """
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    # Away from zero, so that no kept weight vanishes.
    weight += np.copysign(np.float32(0.1), weight)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), choice, layer.groups)
    anonymous = replace(layer, name="layer", weight="weight", transposed=False)
    model = _model(anonymous, weight, rng.standard_normal(layer.outputs).astype(np.float32))
    lowered = lower(model, _plan(model, choice), {}, target, {} if kernel is None else {"layer": kernel})
    program = _Program(anonymous, lowered.kernels["layer"], target, lowered.module)
    (directory / LIBRARY).write_bytes(_code(program))
    write_parameters(lowered, model, directory)
    inputs = random_inputs(model.inputs, seed)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    reference = {f"in/{name}": value for name, value in inputs.items()}
    reference |= {
        f"out/{spec.name}": value for spec, value in zip(model.outputs, session.run(None, inputs), strict=True)
    }
    with writing(directory / REFERENCE):
        save_file(reference, directory / REFERENCE)


@dataclass(frozen=True, slots=True)
class _Program:
    """A layer's module; programs are equal when their code is."""

    layer: Layer
    kernel: str
    target: Target
    module: tvm.IRModule = field(compare=False)


@functools.lru_cache(maxsize=256)
def _code(program: _Program) -> bytes:
    """library.so of a program."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / LIBRARY
        executable = compile_module(program.module, program.target)
        export(executable, path, json.loads(program.target.tvm_target).get("mtriple", ""))
        return path.read_bytes()


def _plan(model: Model, choice: Choice) -> Plan:
    return Plan.of(model.digest, {"layer": choice})


def _model(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> Model:
    """A model of one layer, its bias and nothing else."""
    if layer.window is not None:
        window = layer.window
        pads = [begin for begin, _ in window.pads] + [end for _, end in window.pads]
        nodes = [
            helper.make_node(
                "Conv", ["x", "weight", "bias"], ["y"], "layer",
                strides=window.strides, pads=pads, dilations=window.dilations, group=window.groups,
            )
        ]  # fmt: skip
    else:
        layer = replace(layer, op="MatMul", transposed=True)
        weight = np.ascontiguousarray(weight.T)
        nodes = [
            helper.make_node("MatMul", ["x", "weight"], ["product"], "layer"),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.output_shape)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=onnx.IR_VERSION_2023_5_5
    )
    data = proto.SerializeToString(deterministic=True)
    ports = TensorSpec("x", layer.input_shape, "float32"), TensorSpec("y", layer.output_shape, "float32")
    return Model("layer", data, hashlib.sha256(data).hexdigest(), (layer,), ports[:1], ports[1:])
