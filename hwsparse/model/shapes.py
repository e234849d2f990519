"""Every size a model leaves open is fixed from what the user says.

A size shared by name (`batch`, `sequence`) is fixed everywhere at once. The leading axis of an input, when
open and not given, becomes 1: it is the batch by universal convention, and latency is asked for one sample.
Knows nothing of operators.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import shape_inference

from hwsparse.errors import ModelError, one_line

MAX_TENSOR_ELEMENTS = 2**31 - 1


def fix_inputs(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes the graph's inputs static, in place; the shapes it states of inner values are dropped.

    Args:
        proto: the model.
        shapes: full shape by input name; every axis positive.

    Raises:
        ModelError: an unknown input, a shape that contradicts the model, or a size left open.
    """
    graph = proto.graph
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    # Before IR 4 weights had to be listed as inputs; listed there, they count as changeable and nothing folds.
    del graph.input[:]
    graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 4)
    if not inputs:
        raise ModelError("the model takes no input")
    if unknown := sorted(set(shapes) - {item.name for item in inputs}):
        known = ", ".join(item.name for item in inputs)
        raise ModelError(f"a shape was given for {unknown[0]!r}, but the model's inputs are: {known}")
    bound: dict[str, int] = {}
    for item in graph.input:
        if item.name in shapes:
            _take_given(item, shapes[item.name], bound)
    for item in graph.input:
        _fix_batch(item, bound)
    for item in graph.input:
        _fix_rest(item, bound)
    del graph.value_info[:]


def _take_given(item: onnx.ValueInfoProto, given: tuple[int, ...], bound: dict[str, int]) -> None:
    if any(size < 1 for size in given):
        raise ModelError(f"input {item.name!r}: every size must be at least 1, not {_join(given)}")
    tensor = _tensor(item)
    if not tensor.HasField("shape"):
        for size in given:
            tensor.shape.dim.add().dim_value = size
        return
    dims = tensor.shape.dim
    if len(dims) != len(given):
        raise ModelError(
            f"input {item.name!r} has {len(dims)} axes ({_sketch(item)}), but the shape given is {_join(given)}"
        )
    for axis, (dim, size) in enumerate(zip(dims, given, strict=True)):
        fixed = dim.dim_value if dim.dim_value > 0 else bound.get(dim.dim_param, size)
        if fixed != size:
            raise ModelError(f"input {item.name!r}: axis {axis} is {fixed} in the model, but {size} in the shape given")
        if dim.dim_param:
            bound[dim.dim_param] = size
        dim.dim_value = size


def _fix_batch(item: onnx.ValueInfoProto, bound: dict[str, int]) -> None:
    tensor = _tensor(item)
    if not tensor.HasField("shape"):
        raise ModelError(f"input {item.name!r} has no shape: give it, --shape {item.name}=1,...")
    if tensor.shape.dim and tensor.shape.dim[0].dim_value < 1:
        dim = tensor.shape.dim[0]
        size = bound.get(dim.dim_param, 1)
        if dim.dim_param:
            bound[dim.dim_param] = size
        dim.dim_value = size


def _fix_rest(item: onnx.ValueInfoProto, bound: Mapping[str, int]) -> None:
    for axis, dim in enumerate(_tensor(item).shape.dim):
        if dim.dim_value < 1:
            if dim.dim_param not in bound:
                named = f" {dim.dim_param!r}" if dim.dim_param else ""
                raise ModelError(
                    f"input {item.name!r} has open dimension{named} (axis {axis}): "
                    f"give its shape, --shape {item.name}={_sketch(item)}"
                )
            dim.dim_value = bound[dim.dim_param]


def _tensor(item: onnx.ValueInfoProto) -> onnx.TypeProto.Tensor:
    if not item.type.HasField("tensor_type") or item.type.tensor_type.elem_type == onnx.TensorProto.STRING:
        raise ModelError(f"input {item.name!r} is not a tensor of numbers")
    return item.type.tensor_type


def _sketch(item: onnx.ValueInfoProto) -> str:
    """A shape as far as it is known: 1,3,height,width."""
    dims = item.type.tensor_type.shape.dim
    return ",".join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dims)


def _join(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes of inner values, as far as they follow from the inputs'.

    Raises:
        ModelError: they contradict each other.
    """
    try:
        return shape_inference.infer_shapes(proto, check_type=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(f"the model's shapes or types do not fit together: {one_line(error)}") from None


def static_shape(item: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """A value's shape if every size is known."""
    tensor = item.type.tensor_type
    if not item.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)
