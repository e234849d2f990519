from __future__ import annotations

import subprocess
import sys

import hwsparse.latency


def test_the_public_names() -> None:
    assert sorted(hwsparse.latency.__all__) == [
        "Address", "BoardRunner", "CalibrationReport", "Clock", "Codegen", "CostModel", "Crew", "Device",
        "Estimate", "Footprint", "Footprints", "KnownNetwork", "Latency", "LocalRunner", "MeasureFailure",
        "Measurement", "NetworkRecords", "Outcome", "Prediction", "Progress", "REFERENCE", "Records", "Residual",
        "RunSettings", "Runner", "Toolchain", "Workload", "calibrate", "layer_settings", "median_interval",
        "stored_bytes",
    ]  # fmt: skip
    assert all(hasattr(hwsparse.latency, name) for name in hwsparse.latency.__all__)


def test_importing_it_imports_neither_tvm_nor_torch() -> None:
    """The worker fixes thread counts and takes its standard output away from libraries before it imports TVM."""
    program = "import sys, hwsparse.latency.worker; print({'tvm', 'torch', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
