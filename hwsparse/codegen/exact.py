"""A model in float64, by TVM's own unscheduled code: slow, and as near to exact as is needed to judge float32.

None of our kernels or schedules take part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import tvm
from onnx import TensorProto, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from hwsparse.errors import CompileError, one_line


def float64_answers(proto: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a float32 ONNX graph, by name, computed in float64.

    Raises:
        CompileError: TVM cannot compile the graph in float64.
    """
    model = onnx.load_from_string(proto)
    _widen(model)
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in inputs.items()}
    try:
        module = relax.transform.DecomposeOpsForInference()(from_onnx(model))
        executable = tvm.compile(module, tvm.target.Target({"kind": "llvm"}))
        machine = relax.VirtualMachine(executable, tvm.cpu())
        result = machine["main"](*(tvm.runtime.tensor(wide[port.name]) for port in model.graph.input))
    except Exception as error:  # TVM raises errors of many types
        raise CompileError(f"the model cannot be computed in float64: {one_line(error)}") from None
    results = result if len(model.graph.output) > 1 else [result]
    return {port.name: value.numpy() for port, value in zip(model.graph.output, results, strict=True)}


def _widen(model: onnx.ModelProto) -> None:
    """Turns every float32 of a graph into a float64."""
    graph = model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for port in (*graph.input, *graph.output):
        if port.type.tensor_type.elem_type == TensorProto.FLOAT:
            port.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                wide = numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(numpy_helper.from_array(wide))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
