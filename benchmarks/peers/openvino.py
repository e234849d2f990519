"""OpenVINO at a stated precision: by default it computes in bfloat16 where the processor can.

Needs the packages openvino, and nncf for int8, in the interpreter that runs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino

from benchmarks.peers.case import MODEL, Peer

# Both packages report to their makers unless told that nobody is there.
os.environ["CI"] = "true"


class OpenVino(Peer):
    """A network as read, computed at `PRECISION`."""

    PRECISION: ClassVar[str]

    def __init__(self, directory: Path, threads: int) -> None:
        super().__init__(directory)
        settings = {
            "INFERENCE_PRECISION_HINT": self.PRECISION,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the worker is pinned already
        }
        model = self.prepare(openvino.Core().read_model(directory / MODEL))
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        if (precision := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != self.PRECISION:
            raise RuntimeError(f"OpenVINO computes in {precision} here, not in {self.PRECISION}")
        self._request = compiled.create_infer_request()

    @classmethod
    def load(cls, directory: Path, threads: int) -> OpenVino:
        return cls(directory, threads)

    def prepare(self, model: Any) -> Any:
        """What is done to the network before it is compiled."""
        return model

    def run(self) -> Sequence[np.ndarray]:
        return list(self._request.infer(self.inputs, share_inputs=True, share_outputs=True).values())


class Float32(OpenVino):
    PRECISION = "f32"


class BFloat16(OpenVino):
    PRECISION = "bf16"


class Int8(OpenVino):
    """Quantised after training by NNCF on the case's calibration inputs; the rest in float32."""

    PRECISION = "f32"

    def prepare(self, model: Any) -> Any:
        import nncf

        count = len(next(iter(self.calibration.values())))
        samples = [{name: values[index] for name, values in self.calibration.items()} for index in range(count)]
        attends = any(node.get_type_name() == "Softmax" for node in model.get_ops())
        kind = nncf.ModelType.TRANSFORMER if attends else None
        return nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=count)
