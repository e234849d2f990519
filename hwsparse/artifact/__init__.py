"""A compiled model as it ships: files, and a manifest that proves what they are and what they are worth.

    manifest.py     the manifest: its types, its text, its digest
    directory.py    an artifact as a directory: written whole or not at all, verified when loaded
    archive.py      an artifact as one stream of bytes, for stores and downloads

Knows neither torch nor tvm: what the files hold is the business of codegen.
"""

from hwsparse.artifact.archive import archive_size, pack, read_manifest, unpack
from hwsparse.artifact.directory import Artifact, replace_artifact, require_writable, write_artifact
from hwsparse.artifact.manifest import (
    FileEntry,
    LatencyFigure,
    LayerProof,
    Manifest,
    ModelInfo,
    QualityFigure,
    TargetInfo,
    TensorInfo,
    parse_manifest,
)

__all__ = [
    "Artifact",
    "FileEntry",
    "LatencyFigure",
    "LayerProof",
    "Manifest",
    "ModelInfo",
    "QualityFigure",
    "TargetInfo",
    "TensorInfo",
    "archive_size",
    "pack",
    "parse_manifest",
    "read_manifest",
    "replace_artifact",
    "require_writable",
    "unpack",
    "write_artifact",
]
