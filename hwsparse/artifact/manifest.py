"""What an artifact says about itself, as a type and as a text.

The digest of a manifest is the sha256 of its canonical body, and the body holds the digest and size of
every other file: so one digest stands for the whole artifact. The text of a manifest is canonical too:
a text that differs in a single byte, even a space, is refused.

Knows no directory and no archive.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from hwsparse import strictjson
from hwsparse.errors import ArtifactError, HwsparseError, InputError
from hwsparse.plan import Plan, parse_choice

FORMAT = 1  # of the manifest's text; raised when a reader of the old one would be misled
MAX_MANIFEST_BYTES = 8 << 20
MAX_FILES = 64
MAX_FILE_BYTES = 4 << 30

DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the artifact, other than the manifest."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name) or self.name == "manifest.json":
            raise ArtifactError(f"{self.name!r} cannot be the name of an artifact's file")
        _require_digest(self.sha256, self.name)
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise ArtifactError(f"{self.name}: {self.size} bytes; a file has at most {MAX_FILE_BYTES}")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model before pruning; the digest is that of its canonical ONNX form."""

    name: str
    digest: str

    def __post_init__(self) -> None:
        _require_digest(self.digest, f"model {self.name!r}")


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """The device; `tvm_target` is JSON text."""

    name: str
    tvm_target: str
    threads: int

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ArtifactError(f"target {self.name!r}: {self.threads} threads")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output; `dtype` is a numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape):
            raise ArtifactError(f"tensor {self.name!r}: a negative size in {self.shape}")


# What the kernel of layers is called that run on an accelerator.
ARRAY = "array"
# Of a time: it is to be known to this, relative; where its interval's ends are farther away, whoever reads it is told.
NOISY = 0.02


@dataclass(frozen=True, slots=True)
class LatencyFigure:
    """Seconds for one inference, and how they are known; a prediction has no samples."""

    median_s: float
    interval_s: tuple[float, float]  # 95 % of the median; where it is predicted, 90 %
    source: Literal["measured", "simulated", "predicted"]
    samples: int

    def __post_init__(self) -> None:
        low, high = self.interval_s
        if not 0 <= low <= self.median_s <= high < math.inf:
            raise ArtifactError(f"latency {self.median_s} s is not within its interval {low} to {high}")
        if self.samples < 0 or (self.source == "measured" and self.samples == 0):
            raise ArtifactError(f"a {self.source} latency cannot rest on {self.samples} samples")

    @property
    def known_to(self) -> float:
        """How far the interval's ends are from the median at most, relative to it."""
        return max(abs(end - self.median_s) for end in self.interval_s) / self.median_s if self.median_s else 0.0


def noise_note(figures: Iterable[LatencyFigure | None]) -> str:
    """A sentence about times of which one is not known well; empty if all are, or were never taken."""
    worst = max((each.known_to for each in figures if each is not None and each.source != "predicted"), default=0.0)
    if worst <= NOISY:
        return ""
    return f"Times are known to {worst:.1%} only, not to {NOISY:.0%}: time them anew on a quiet machine."


@dataclass(frozen=True, slots=True)
class QualityFigure:
    """How good the model's answers are on one split of a data set; more is better.

    `drop` is what was lost against the dense model on the same samples, its interval that of the difference
    sample by sample.
    """

    metric: str
    value: float
    interval: tuple[float, float]  # 95 %
    drop: float
    drop_interval: tuple[float, float]  # 95 %
    samples: int
    dataset: str
    split: str

    def __post_init__(self) -> None:
        for figure, (low, high) in ((self.value, self.interval), (self.drop, self.drop_interval)):
            if not (math.isfinite(figure) and low <= high):
                raise ArtifactError(f"{self.metric} {figure} with the interval {low} to {high} is no quality")
        if self.samples < 1:
            raise ArtifactError(f"{self.metric} cannot rest on {self.samples} samples")


@dataclass(frozen=True, slots=True)
class LayerProof:
    """What was asked of a layer, what ships, and what it gained.

    `refused` says why the layer does not ship as asked; None if it does. Times are seconds on the device
    with the kernels that ship, None where they were not measured.
    """

    name: str
    asked: str  # a choice's text, as in Plan
    shipped: str
    kernel: str
    dense_s: float | None
    sparse_s: float | None
    refused: str | None

    def __post_init__(self) -> None:
        for text in (self.asked, self.shipped):
            if str(parse_choice(text)) != text:
                raise ArtifactError(f"layer {self.name!r}: {text!r} is not how a choice is written")
        if (self.refused is None) != (self.asked == self.shipped):
            raise ArtifactError(
                f"layer {self.name!r}: asked {self.asked}, ships {self.shipped}: "
                "a reason belongs to every difference, and only there"
            )
        if any(time is not None and not 0 <= time < math.inf for time in (self.dense_s, self.sparse_s)):
            raise ArtifactError(f"layer {self.name!r}: a time is negative or not finite")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything an artifact says about itself.

    The latencies were taken on one device in one run: of this artifact, of the dense model compiled the
    same way, and of the dense model in onnxruntime. Where they are predicted, it ran on no such device, and its outputs
    were not checked. `plan` is what ships; `layers` has every prunable
    layer, in graph order. `write_artifact` fills in `files`.
    """

    model: ModelInfo
    plan: Plan
    target: TargetInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    latency: LatencyFigure | None
    dense_latency: LatencyFigure | None
    onnxruntime_latency: LatencyFigure | None
    quality: QualityFigure | None
    dense_quality: QualityFigure | None
    layers: tuple[LayerProof, ...]
    toolchain: tuple[tuple[str, str], ...]  # (name, version)
    created_at: str  # UTC, as 2026-01-31T12:00:00Z
    files: tuple[FileEntry, ...] = ()

    def __post_init__(self) -> None:
        if self.plan.model_digest != self.model.digest:
            raise ArtifactError("the plan belongs to another model")
        proofs = {proof.name: proof for proof in self.layers}
        if len(proofs) != len(self.layers):
            raise ArtifactError("a layer is there twice")
        if unproved := [name for name, _ in self.plan.choices if name not in proofs]:
            raise ArtifactError(f"layer {unproved[0]!r} of the plan has no proof")
        for proof in self.layers:
            if proof.shipped != str(self.plan.choice(proof.name)):
                raise ArtifactError(f"layer {proof.name!r} ships {proof.shipped}, against the plan")
        names = [entry.name for entry in self.files]
        if names != sorted(set(names)) or len(names) > MAX_FILES:
            raise ArtifactError(f"files are listed once, sorted by name, and at most {MAX_FILES}")
        if not _is_utc_time(self.created_at):
            raise ArtifactError(f"created_at {self.created_at!r} is not of the form 2026-01-31T12:00:00Z")

    @property
    def digest(self) -> str:
        """The artifact's identity: sha256 of the canonical body."""
        return _digest(self._body())

    @property
    def text(self) -> str:
        """The text of manifest.json; equal manifests have equal texts."""
        body = self._body()
        return strictjson.canonical({"digest": _digest(body), **body}, indent=1) + "\n"

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, **strictjson.encode(self)}


def parse_manifest(text: str | bytes, where: str = "manifest.json") -> Manifest:
    """Reads a manifest from its text.

    Raises:
        ArtifactError: not exactly what `Manifest.text` gives, or its digest is not that of its body.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{where}: larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        raw = text.encode() if isinstance(text, str) else text
        data = strictjson.parse(raw, where)
        if not isinstance(data, dict):
            raise ArtifactError(f"{where}: not an artifact's manifest")
        if (found := data.get("format")) != FORMAT:
            raise ArtifactError(f"{where}: has the format {found!r}; this hwsparse reads {FORMAT}")
        body = {key: value for key, value in data.items() if key not in ("digest", "format")}
        manifest = strictjson.decode(Manifest, body, where)
    except (InputError, UnicodeEncodeError) as error:
        raise ArtifactError(str(error)) from None
    if data.get("digest") != manifest.digest:
        raise ArtifactError(f"{where}: changed since it was written: its digest is not that of its content")
    if raw != manifest.text.encode():
        raise ArtifactError(f"{where}: changed since it was written: not in canonical form")
    return manifest


def normalized(manifest: Manifest) -> Manifest:
    """The manifest as it reads after writing: declared types only, ratios as their text has them.

    Raises:
        ArtifactError: a field does not hold what it declares.
    """
    try:
        return strictjson.decode(Manifest, strictjson.encode(manifest), "manifest")
    except HwsparseError as error:
        raise ArtifactError(str(error)) from None


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(strictjson.canonical(body).encode()).hexdigest()


def _is_utc_time(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return len(text) == len("2026-01-31T12:00:00Z")


def _require_digest(text: str, where: str) -> None:
    if not DIGEST.fullmatch(text):
        raise ArtifactError(f"{where}: {text!r} is not a sha256 in hex")
