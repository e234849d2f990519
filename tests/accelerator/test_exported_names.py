"""The package's public names, and what it does without."""

from __future__ import annotations

import subprocess
import sys

import hwsparse.accelerator as package

NAMES = (
    "COUNTING_VERSION", "Accelerator", "Bounds", "Energy", "Geometry", "Parts", "Product", "Program", "Run", "Timing",
    "Traffic", "Unpacked", "VectorWork", "compile_layer", "estimate_energy", "format_accelerator", "lay_out",
    "lower_bounds", "product_of", "read_accelerator", "read_stream", "run_program", "time_network",
    "time_pipeline", "write_stream",
)  # fmt: skip


def test_exported_names() -> None:
    assert tuple(package.__all__) == NAMES
    assert all(hasattr(package, name) for name in NAMES)


def test_neither_torch_nor_tvm_nor_amaranth_is_needed() -> None:
    code = "import sys, hwsparse.accelerator; print({'torch', 'tvm', 'amaranth'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
