"""An ONNX file becomes a `Model`: read, fixed to static shapes, folded, its prunable layers named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import helper

from hwsparse.errors import ModelError
from hwsparse.model.external import MAX_MODEL_BYTES
from hwsparse.model.fold import fold
from hwsparse.model.layers import find_layers
from hwsparse.model.model import Model, TensorSpec
from hwsparse.model.quantised import state_ranges, take_out_pairs
from hwsparse.model.read import check_graph, read_proto
from hwsparse.model.shapes import fix_inputs, static_shape


def import_onnx(
    source: Path | bytes, *, shapes: Mapping[str, tuple[int, ...]] | None = None, name: str | None = None
) -> Model:
    """Imports an ONNX model (opset 11 to 22).

    Of a model that is quantised already, in QDQ format, it is the float network: weights are what their bytes stand
    for, what layers read is not rounded, and the ranges that the file states are the model's `ranges`.

    Args:
        source: path of the file, or its content. External weights are read from the file's own directory only.
        shapes: full shape by input name, for inputs whose sizes are open. An open leading axis that is not
            given becomes 1.
        name: what to call the model; the file's stem by default.

    Raises:
        ModelError: the model cannot be read, or uses something that cannot be compiled; says which operator and node.
        StorageError: the directory for temporary files cannot be written to.
    """
    where = str(source) if isinstance(source, Path) else name or "model"
    try:
        proto = read_proto(source)
        fix_inputs(proto, shapes or {})
        check_graph(proto)
        ranges = take_out_pairs(proto)
        canonical = fold(proto)
        state_ranges(canonical, ranges)
        return model_of(canonical, name or Path(where).stem)
    except ModelError as error:
        raise ModelError(str(error) if where in str(error) else f"{where}: {error}") from None


def model_of(canonical: onnx.ModelProto, name: str) -> Model:
    """Wraps a canonical graph.

    Raises:
        ModelError: it is too large for one ONNX file.
    """
    if canonical.ByteSize() > MAX_MODEL_BYTES:
        raise ModelError(f"the model takes more than {MAX_MODEL_BYTES} bytes once its constants are folded")
    data = canonical.SerializeToString(deterministic=True)
    return Model(
        name=name,
        proto=data,
        digest=hashlib.sha256(data).hexdigest(),
        layers=find_layers(canonical),
        inputs=_specs(canonical.graph.input),
        outputs=_specs(canonical.graph.output),
    )


def _specs(items: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            item.name,
            static_shape(item) or (),
            helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type).name,
        )
        for item in items
    )
