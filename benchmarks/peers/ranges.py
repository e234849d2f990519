"""Between what a network's tensors lie on samples, as onnxruntime computes them.

Needs the package onnxruntime alone, which comes with DeepSparse: its quantisation tool needs more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from benchmarks.peers.integers import Range


def seen_ranges(
    proto: onnx.ModelProto, tensors: Sequence[str], calibration: Mapping[str, np.ndarray], threads: int
) -> dict[str, Range]:
    """The smallest and largest value of each tensor.

    Args:
        tensors: inputs of the network, or whatever its nodes compute.
        calibration: samples, stacked, by input.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    computed = [name for name in tensors if name not in calibration]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    lows, highs = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    for index in range(len(next(iter(calibration.values())))):
        feeds = {name: values[index] for name, values in calibration.items()}
        values = feeds | dict(zip(computed, session.run(computed, feeds), strict=True))
        for name in tensors:
            lows[name] = min(lows[name], float(values[name].min()))
            highs[name] = max(highs[name], float(values[name].max()))
    return {name: Range(lows[name], highs[name]) for name in tensors}
