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
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from hwsparse.codegen.build import compile_module, export, write_parameters
from hwsparse.codegen.cpu.arithmetic import RUN_ERROR
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.folding import folded
from hwsparse.codegen.kernels import kernel_for
from hwsparse.codegen.library import LIBRARY, REFERENCE, random_inputs
from hwsparse.codegen.lowering import Lowered, call_alone, lower
from hwsparse.errors import writing
from hwsparse.model import Model, TensorSpec
from hwsparse.plan import Choice, Layer, Plan, Window
from hwsparse.quantise import MOST_VALUE, Scale, rounded, weight_bytes
from hwsparse.sparsify.mask import make_mask
from hwsparse.target import Target

OPSET = 17
# Of a layer's largest output, what an output may be off where runs are summed in float16: twice what any was off that
# was looked at, of 27 to 4608 inputs. Nearly all are off by a fourth of it; one whose runs are large, and make up for
# each other, is off by more.
LAYER_ERROR = 5 * RUN_ERROR


def build_layer(
    layer: Layer, choice: Choice, target: Target, directory: Path, kernel: str | None = None, seed: int = 0
) -> None:
    """Builds a layer, with random weights pruned as `choice` says and a bias, into `directory`: a `Library`.

    A layer of int8 weights reads bytes and gives bytes, as one among others of its kind. onnxruntime's answer on random
    inputs, rounded already to what the layer reads, is stored beside it, for `Library.check`, with what sums of float16
    may be off. Nothing is loaded: the code may be another machine's.

    Args:
        kernel: one of `kernels_for`; the first of them if None.

    Raises:
        CompileError: TVM or the linker refused the program, or there is no such kernel.
        PatternError: the choice cannot be applied to the layer.
    """
    program, lowered, model, inputs, outputs = _drawn(layer, choice, target, kernel, seed)
    (directory / LIBRARY).write_bytes(_code(program))
    write_parameters(lowered, model, target, directory)
    reference = {f"in/{name}": value for name, value in inputs.items()}
    reference |= {f"out/{name}": value for name, value in outputs.items()}
    if choice.dtype == "float16":
        reference |= {f"off/{name}": np.array(LAYER_ERROR, np.float32) for name in outputs}
    with writing(directory / REFERENCE):
        save_file(reference, directory / REFERENCE)


def layer_assembly(layer: Layer, choice: Choice, target: Target, kernel: str | None = None) -> str:
    """The machine code of a layer that `build_layer` builds, as text: for who looks at what a compiler made of it.

    Raises:
        CompileError: TVM refused the program, or there is no such kernel.
        PatternError: the choice cannot be applied to the layer.
    """
    program, *_ = _drawn(layer, choice, target, kernel, 0)
    (code,) = (each for each in compile_module(program.module, target).mod.imports if each.kind == "llvm")
    return str(code.inspect_source("asm"))


def _drawn(
    layer: Layer, choice: Choice, target: Target, kernel: str | None, seed: int
) -> tuple[_Program, Lowered, Model, _Arrays, _Arrays]:
    """A layer's program with weights that are drawn, what it was lowered to, and inputs with the outputs due."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    # Away from zero, so that no kept weight vanishes.
    weight += np.copysign(np.float32(0.1), weight)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), choice, layer.groups)
    if choice.dtype in ("float16", "bfloat16"):
        weight = rounded(weight, choice.dtype)
    bias = rng.standard_normal(layer.outputs).astype(np.float32)
    anonymous = replace(layer, name="layer", weight="weight", transposed=False)
    alone = _bytes if choice.dtype == "int8" else _floats
    lowered, model, inputs, outputs = alone(_Wanted(anonymous, choice, kernel, weight, bias), target, rng)
    program = _Program(anonymous, lowered.kernels["layer"], target, lowered.module)
    return program, lowered, model, inputs, outputs


_Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """A layer to be built alone: `weight` is pruned as the choice says."""

    layer: Layer
    choice: Choice
    kernel: str | None
    weight: np.ndarray
    bias: np.ndarray


def _floats(wanted: _Wanted, target: Target, rng: np.random.Generator) -> tuple[Lowered, Model, _Arrays, _Arrays]:
    """A layer lowered as in a network of floats, its model, and inputs with the outputs that onnxruntime gives."""
    model = _model(wanted.layer, wanted.weight, wanted.bias)
    kernels = {} if wanted.kernel is None else {"layer": wanted.kernel}
    lowered = lower(model, _plan(model, wanted.choice), {}, target, kernels)
    inputs = random_inputs(model.inputs, int(rng.integers(1 << 31)))
    if wanted.choice.dtype in ("float16", "bfloat16"):
        inputs = {name: rounded(value, wanted.choice.dtype) for name, value in inputs.items()}
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    outputs = zip(model.outputs, session.run(None, inputs), strict=True)
    return lowered, model, inputs, {spec.name: value for spec, value in outputs}


def _bytes(wanted: _Wanted, target: Target, rng: np.random.Generator) -> tuple[Lowered, Model, _Arrays, _Arrays]:
    """As `_floats`, of a layer between others that read and write bytes."""
    layer, weight, bias, epilogue = wanted.layer, wanted.weight, wanted.bias, Epilogue(stored="uint8")
    made = kernel_for(layer, wanted.choice, target, epilogue, wanted.kernel)
    read, stored = Scale.of(*READ), Scale.of(*_reach(weight))
    *lists, factors = made.pack(weight, read)
    packed = (*lists, *folded(epilogue, lists[-1], factors, bias, None, stored))
    x = rng.integers(0, MOST_VALUE + 1, layer.input_shape).astype(np.uint8)
    signed, scales = weight_bytes(weight)
    sums = _sums(layer, signed, read.zero, x)
    shape = (-1, *[1] * len(layer.window.strides)) if layer.window else (-1,)
    values = sums.astype(np.float32) * (scales * np.float32(read.scale)).reshape(shape) + bias.reshape(shape)
    ports = TensorSpec("x", layer.input_shape, "uint8"), TensorSpec("y", layer.output_shape, "uint8")
    model = replace(_model(layer, weight, bias), inputs=ports[:1], outputs=ports[1:])
    return call_alone(made, ports, packed), model, {"x": x}, {"y": stored.bytes_of(values)}


# Of the values that bytes stand for, which are what they may be: bytes are drawn, and their sums rounded.
READ = (-1.0, 1.0)


def _reach(weight: np.ndarray) -> tuple[float, float]:
    """From where to where most outputs are, of inputs as evenly spread as `READ` has them."""
    most = 3 * float(np.sqrt(np.square(weight).reshape(len(weight), -1).sum(axis=1).max() / 3) + 1)
    return -most, most


def _sums(layer: Layer, weight: np.ndarray, zero: int, x: np.ndarray) -> np.ndarray:
    """A layer's sums of products of integers, (x - zero) by signed bytes, exactly; convolutions by onnxruntime.

    Its MatMulInteger is no reference: on x86 without VNNI it cuts sums of two products off at 16 bits.
    """
    if layer.window is None:
        return (x.astype(np.float64) - zero) @ weight.T.astype(np.float64)
    graph = helper.make_graph(
        [helper.make_node("ConvInteger", ["x", "weight", "zero"], ["y"], **_attributes(layer.window))],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, layer.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, layer.output_shape)],
        [
            numpy_helper.from_array(np.ascontiguousarray(weight), "weight"),
            numpy_helper.from_array(np.array(zero, np.uint8), "zero"),
        ],
    )
    session = onnxruntime.InferenceSession(_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _attributes(window: Window) -> dict[str, Any]:
    return {
        "strides": window.strides,
        "pads": [begin for begin, _ in window.pads] + [end for _, end in window.pads],
        "dilations": window.dilations,
        "group": window.groups,
    }


def _proto(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=onnx.IR_VERSION_2023_5_5)


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
        nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], "layer", **_attributes(layer.window))]
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
    data = _proto(graph).SerializeToString(deterministic=True)
    ports = TensorSpec("x", layer.input_shape, "float32"), TensorSpec("y", layer.output_shape, "float32")
    return Model("layer", data, hashlib.sha256(data).hexdigest(), (layer,), ports[:1], ports[1:])
