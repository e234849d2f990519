"""Networks run by onnxruntime on samples of data; what it cannot run is one clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnxruntime

from hwsparse.errors import DataError, one_line


def session_of(
    proto: bytes, arrays: Mapping[str, np.ndarray] = MappingProxyType({}), *, threads: int = 1, optimised: bool = True
) -> onnxruntime.InferenceSession:
    """A session of an ONNX model. On one thread, samples or layers are run side by side.

    Args:
        arrays: initializers that lie elsewhere, by name, as `Apart` has them; they must last as long as the session.

    It cannot be optimised if an output of it may be a constant: onnxruntime "attempts to replace the existing tensor".

    Raises:
        DataError: onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if arrays:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        options.add_external_initializers(list(arrays), values)
    options.log_severity_level = 4  # what matters of its log is in the exception
    try:
        return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise DataError(f"onnxruntime cannot load the network: {one_line(error)}") from None


def run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], what: str
) -> list[np.ndarray]:
    """The outputs by their names.

    Args:
        what: is run, in errors, as `sample 3 of pictures`.

    Raises:
        DataError: onnxruntime cannot run it.
    """
    try:
        found: list[np.ndarray] = session.run(list(outputs), dict(feeds))
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise DataError(f"onnxruntime cannot run {what}: {one_line(error)}") from None
    return found
