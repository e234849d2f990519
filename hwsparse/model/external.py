"""Weights kept beside an ONNX file are brought into it, and only from the file's own directory.

A model is input from outside: a tensor may name any path, any offset and any length. Knows nothing of what
the tensors mean.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import helper

from hwsparse.errors import ModelError

MAX_MODEL_BYTES = 2**31 - 1  # what one protobuf message can hold


def inline_external_data(proto: onnx.ModelProto, directory: Path | None) -> None:
    """Reads every external tensor of `proto` and stores it inline.

    Args:
        proto: changed in place.
        directory: where the model file lies; None if the model came as bytes.

    Raises:
        ModelError: a tensor's data lies outside the directory, is missing, or has not the size it should have;
            or the whole would exceed what one ONNX file can hold.
    """
    tensors = [t for t in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    if tensors and directory is None:
        raise ModelError(
            f"tensor {tensors[0].name!r} keeps its data in another file; a model given as bytes must hold all its data"
        )
    total_bytes = proto.ByteSize() + sum(map(_size_bytes, tensors))
    if total_bytes > MAX_MODEL_BYTES:
        raise ModelError(f"the model with its external data takes {total_bytes} bytes; the limit is {MAX_MODEL_BYTES}")
    for tensor in tensors:
        assert directory is not None
        tensor.raw_data = _read(tensor, directory)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def _read(tensor: onnx.TensorProto, directory: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(entries.get("location", ""), directory, tensor.name)
    size_bytes = _size_bytes(tensor)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", size_bytes))
    except ValueError:
        raise ModelError(f"tensor {tensor.name!r}: offset and length of external data must be numbers") from None
    if offset < 0 or length != size_bytes:
        raise ModelError(
            f"tensor {tensor.name!r} needs {size_bytes} bytes, but its external data says {length} at offset {offset}"
        )
    try:
        with path.open("rb") as file:
            if offset + length > os.fstat(file.fileno()).st_size:
                raise ModelError(f"tensor {tensor.name!r}: {path.name} ends before offset {offset} + {length}")
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise ModelError(f"tensor {tensor.name!r}: cannot read {path.name}: {error.strerror}") from None


def _inside(location: str, directory: Path, tensor_name: str) -> Path:
    """The regular file `location` names, which must lie under `directory` even after links are followed."""
    parts = PurePosixPath(location).parts + PureWindowsPath(location).parts
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or "\0" in location or absolute or ".." in parts:
        raise ModelError(
            f"tensor {tensor_name!r}: external data {location!r} must be a path inside the model's own directory"
        )
    path = (directory / location).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ModelError(f"tensor {tensor_name!r}: external data {location!r} leads out of the model's own directory")
    if not path.is_file():
        raise ModelError(f"tensor {tensor_name!r}: external data file {location!r} is missing")
    return path


def _size_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's raw data; sub-byte types are packed."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        raise ModelError(f"tensor {tensor.name!r} has the unknown element type {tensor.data_type}") from None
    if dtype.hasobject or any(size < 0 for size in tensor.dims):
        raise ModelError(f"tensor {tensor.name!r}: such a tensor cannot be external data")
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name, dtype.itemsize * 8)
    return -(-math.prod(tensor.dims) * bits // 8)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: weights and attributes, of subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        for sparse in (
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ):
            yield from (sparse.values, sparse.indices)
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graph_tensors(graph)
