"""A small artifact with every kind of field in its manifest, for tests."""

from __future__ import annotations

from pathlib import Path

from hwsparse.artifact import (
    Artifact,
    LatencyFigure,
    LayerProof,
    Manifest,
    ModelInfo,
    QualityFigure,
    TargetInfo,
    TensorInfo,
    write_artifact,
)
from hwsparse.plan import Plan, parse_choice

MODEL_DIGEST = "ab" * 32
FILES: dict[str, bytes] = {
    "library.so": b"\x7fELF" + bytes(range(256)) * 9,
    "library.json": b"{}",
    "weights.safetensors": b"",
    "notes.txt": b"x" * 512,
}


def example_manifest(name: str = "magika") -> Manifest:
    block = "block4x1@0.9"
    return Manifest(
        model=ModelInfo(name, MODEL_DIGEST),
        plan=Plan.of(MODEL_DIGEST, {"conv": parse_choice(block)}),
        target=TargetInfo("x86-local", '{"kind":"llvm"}', 2),
        inputs=(TensorInfo("bytes", (1, 2048), "int32"),),
        outputs=(TensorInfo("label", (1, 214), "float32"),),
        latency=LatencyFigure(0.001, (0.0009, 0.0011), "measured", 30),
        dense_latency=LatencyFigure(0.002, (0.0019, 0.0021), "measured", 30),
        onnxruntime_latency=LatencyFigure(0.005, (0.0049, 0.0051), "measured", 30),
        quality=QualityFigure("top1", 0.97, (0.95, 0.99), 0.01, (-0.01, 0.02), 300, "files", "held-out"),
        dense_quality=None,
        layers=(
            LayerProof("conv", block, block, "shared_index_r4", 0.0015, 0.0005, None),
            LayerProof("tête", block, "dense", "gemm", 1e-5, 2e-5, "not faster than dense here"),
        ),
        toolchain=(("apache-tvm", "0.27.0"),),
        created_at="2026-01-31T12:00:00Z",
    )


def example_artifact(directory: Path, name: str = "magika") -> Artifact:
    return write_artifact(directory, FILES, example_manifest(name))
