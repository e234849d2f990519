"""The protocol's types to and from those of the house, and nothing else.

`to_` builds a message, `from_` reads one. What comes from the other end may hold anything: reading raises
InputError (or the type's own error) and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from hwsparse.accelerator import Accelerator
from hwsparse.artifact import LatencyFigure, Manifest, QualityFigure
from hwsparse.core import Core
from hwsparse.errors import InputError
from hwsparse.plan import Plan
from hwsparse.serve.operation import (
    ArtifactSummary,
    Budget,
    FrontPoint,
    JobError,
    JobKind,
    Operation,
    OperationState,
    Progress,
)
from hwsparse.serve.uploads import Announcement, Upload
from hwsparse.serve.v1 import (
    artifacts_pb2,
    datasets_pb2,
    figures_pb2,
    models_pb2,
    operations_pb2,
    optimization_pb2,
    targets_pb2,
    uploads_pb2,
)
from hwsparse.target import Target

UploadRequest = models_pb2.UploadModelRequest | datasets_pb2.UploadDatasetRequest

K = TypeVar("K")
V = TypeVar("V")

_TARGET_KINDS = {
    "cpu": targets_pb2.TARGET_KIND_CPU,
    "gpu": targets_pb2.TARGET_KIND_GPU,
    "fpga": targets_pb2.TARGET_KIND_FPGA,
}
_SOURCES = {
    "measured": figures_pb2.LATENCY_SOURCE_MEASURED,
    "simulated": figures_pb2.LATENCY_SOURCE_SIMULATED,
    "predicted": figures_pb2.LATENCY_SOURCE_PREDICTED,
}
_METHODS = {
    "dense": figures_pb2.FRONT_METHOD_DENSE,
    "uniform": figures_pb2.FRONT_METHOD_UNIFORM,
    "search": figures_pb2.FRONT_METHOD_SEARCH,
}
_KINDS: Mapping[JobKind, operations_pb2.OperationKind.ValueType] = {
    "optimize": operations_pb2.OPERATION_KIND_OPTIMIZE,
    "compile": operations_pb2.OPERATION_KIND_COMPILE,
}
_STATES = {
    OperationState.QUEUED: operations_pb2.OPERATION_STATE_QUEUED,
    OperationState.RUNNING: operations_pb2.OPERATION_STATE_RUNNING,
    OperationState.SUCCEEDED: operations_pb2.OPERATION_STATE_SUCCEEDED,
    OperationState.FAILED: operations_pb2.OPERATION_STATE_FAILED,
    OperationState.CANCELLED: operations_pb2.OPERATION_STATE_CANCELLED,
}


def _key(names: Mapping[K, V], number: V, what: str) -> K:
    for key, value in names.items():
        if value == number:
            return key
    raise InputError(f"{number} is no {what} that this version knows")


def to_target(target: Target) -> targets_pb2.Target:
    """Builds the message of a device."""
    supported = [targets_pb2.SupportedPattern(pattern=p, dtype=d) for p, d in target.supported]
    return targets_pb2.Target(
        name=target.name,
        kind=_TARGET_KINDS[target.kind],
        description=target.description,
        tvm_target=target.tvm_target,
        runner=target.runner,
        supported=supported,
        threads=target.threads,
        cores=target.cores,
        memory_bytes=target.memory_bytes,
        peak_flops=target.peak_flops,
        bandwidth_bytes_per_s=target.bandwidth_bytes_per_s,
        vector_bits=target.vector_bits,
        vector_registers=target.vector_registers,
        l1d_bytes=target.l1d_bytes,
        l2_bytes=target.l2_bytes,
        isa=target.isa,
        pipelined=target.pipelined,
        core=None if target.core is None else targets_pb2.Core(**asdict(target.core)),
        accelerator=None if target.accelerator is None else targets_pb2.Accelerator(**asdict(target.accelerator)),
    )


def from_target(message: targets_pb2.Target) -> Target:
    """Reads a device."""
    return Target(
        name=message.name,
        kind=_key(_TARGET_KINDS, message.kind, "kind of target"),
        description=message.description,
        tvm_target=message.tvm_target,
        runner=message.runner,
        supported=tuple((entry.pattern, entry.dtype) for entry in message.supported),
        threads=message.threads,
        cores=message.cores,
        memory_bytes=message.memory_bytes,
        peak_flops=message.peak_flops,
        bandwidth_bytes_per_s=message.bandwidth_bytes_per_s,
        vector_bits=message.vector_bits,
        vector_registers=message.vector_registers,
        l1d_bytes=message.l1d_bytes,
        l2_bytes=message.l2_bytes,
        isa=tuple(message.isa),
        pipelined=message.pipelined,
        core=_core(message.core) if message.HasField("core") else None,
        accelerator=_accelerator(message.accelerator) if message.HasField("accelerator") else None,
    )


def _accelerator(message: targets_pb2.Accelerator) -> Accelerator:
    return Accelerator(**{field.name: getattr(message, field.name) for field in fields(Accelerator)})


def _core(message: targets_pb2.Core) -> Core:
    return Core(**{field.name: getattr(message, field.name) for field in fields(Core)})


def to_latency(figure: LatencyFigure | None) -> figures_pb2.Latency | None:
    """Builds the message of a latency."""
    if figure is None:
        return None
    low, high = figure.interval_s
    return figures_pb2.Latency(
        median_s=figure.median_s,
        low_s=low,
        high_s=high,
        source=_SOURCES[figure.source],
        samples=figure.samples,
    )


def from_latency(message: figures_pb2.Latency) -> LatencyFigure:
    """Reads a latency."""
    source = _key(_SOURCES, message.source, "source of a latency")
    interval = (message.low_s, message.high_s)
    return LatencyFigure(message.median_s, interval, source, message.samples)  # type: ignore[arg-type]


def to_quality(figure: QualityFigure | None) -> figures_pb2.Quality | None:
    """Builds the message of a quality."""
    if figure is None:
        return None
    low, high = figure.interval
    return figures_pb2.Quality(
        metric=figure.metric,
        value=figure.value,
        low=low,
        high=high,
        samples=figure.samples,
        dataset=figure.dataset,
        split=figure.split,
        drop=figure.drop,
        drop_low=figure.drop_interval[0],
        drop_high=figure.drop_interval[1],
    )


def from_quality(message: figures_pb2.Quality) -> QualityFigure:
    """Reads a quality."""
    return QualityFigure(
        message.metric,
        message.value,
        (message.low, message.high),
        message.drop,
        (message.drop_low, message.drop_high),
        message.samples,
        message.dataset,
        message.split,
    )


def to_point(point: FrontPoint) -> figures_pb2.FrontPoint:
    """Builds the message of a point of a front."""
    return figures_pb2.FrontPoint(
        method=_METHODS[point.method],
        latency=to_latency(point.latency),
        quality=to_quality(point.quality),
        plan_json=point.plan.to_json(),
        artifact_digest=point.artifact or "",
    )


def from_point(message: figures_pb2.FrontPoint) -> FrontPoint:
    """Reads a point of a front."""
    return FrontPoint(
        method=_key(_METHODS, message.method, "method"),  # type: ignore[arg-type]
        latency=from_latency(message.latency),
        quality=from_quality(message.quality) if message.HasField("quality") else None,
        plan=Plan.from_json(message.plan_json),
        artifact=message.artifact_digest or None,
    )


def to_progress(progress: Progress) -> operations_pb2.Progress:
    """Builds the message of how far a job is."""
    return operations_pb2.Progress(
        stage=progress.stage,
        fraction=progress.fraction,
        message=progress.message,
        trials_done=progress.trials_done,
        trials_total=progress.trials_total,
        front=[to_point(point) for point in progress.front],
    )


def from_progress(message: operations_pb2.Progress) -> Progress:
    """Reads how far a job is."""
    return Progress(
        stage=message.stage,
        fraction=message.fraction,
        message=message.message,
        trials_done=message.trials_done,
        trials_total=message.trials_total,
        front=tuple(from_point(point) for point in message.front),
    )


def to_operation(operation: Operation) -> operations_pb2.Operation:
    """Builds the message of a piece of work."""
    message = operations_pb2.Operation(
        name=operation.name,
        kind=_KINDS[operation.kind],
        state=_STATES[operation.state],
        done=operation.state.done,
        target=operation.target,
        model_sha256=operation.model_sha256,
        request_id=operation.request_id,
        create_time=_timestamp(operation.created_at),
        start_time=_timestamp(operation.started_at),
        end_time=_timestamp(operation.finished_at),
        progress=to_progress(operation.progress),
    )
    if operation.error is not None:
        message.error.reason, message.error.message = operation.error.kind, operation.error.message
    if operation.state is OperationState.SUCCEEDED:
        message.response.artifact_digests.extend(operation.artifacts)
        message.response.SetInParent()
    return message


def from_operation(message: operations_pb2.Operation) -> Operation:
    """Reads a piece of work."""
    error = JobError(message.error.reason, message.error.message) if message.HasField("error") else None
    return Operation(
        name=message.name,
        kind=_key(_KINDS, message.kind, "kind of operation"),
        state=_key(_STATES, message.state, "state of an operation"),
        target=message.target,
        model_sha256=message.model_sha256,
        request_id=message.request_id,
        created_at=_seconds(message.create_time),
        started_at=_seconds(message.start_time) if message.HasField("start_time") else None,
        finished_at=_seconds(message.end_time) if message.HasField("end_time") else None,
        progress=from_progress(message.progress),
        error=error,
        artifacts=tuple(message.response.artifact_digests),
    )


def to_budget(budget: Budget) -> optimization_pb2.Budget:
    """Builds the message of how far to search."""
    return optimization_pb2.Budget(
        trials=budget.trials,
        max_latency_s=budget.max_latency_s,
        min_quality=budget.min_quality,
        max_quality_drop=budget.max_quality_drop,
        max_file_bytes=budget.max_file_bytes,
        max_memory_bytes=budget.max_memory_bytes,
    )


def from_budget(message: optimization_pb2.Budget) -> Budget:
    """Reads how far to search."""
    return Budget(
        trials=message.trials,
        max_latency_s=message.max_latency_s if message.HasField("max_latency_s") else None,
        min_quality=message.min_quality if message.HasField("min_quality") else None,
        max_quality_drop=message.max_quality_drop if message.HasField("max_quality_drop") else None,
        max_file_bytes=message.max_file_bytes if message.HasField("max_file_bytes") else None,
        max_memory_bytes=message.max_memory_bytes if message.HasField("max_memory_bytes") else None,
    )


def to_shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[optimization_pb2.InputShape]:
    """Builds the message of inputs' shapes by name."""
    return [optimization_pb2.InputShape(name=name, dims=shapes[name]) for name in sorted(shapes)]


def from_shapes(messages: Iterable[optimization_pb2.InputShape]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Reads inputs' shapes by name."""
    return tuple(sorted((message.name, tuple(message.dims)) for message in messages))


def to_header(announced: Announcement) -> uploads_pb2.UploadHeader:
    """Builds the message of what is said of a file before it is sent."""
    return uploads_pb2.UploadHeader(name=announced.name, sha256=announced.sha256, size_bytes=announced.size_bytes)


def to_upload(upload: Upload) -> uploads_pb2.Upload:
    """Builds the message of a file that the server holds."""
    return uploads_pb2.Upload(
        sha256=upload.sha256,
        name=upload.name,
        size_bytes=upload.size_bytes,
        upload_time=_timestamp(upload.uploaded_at),
    )


def from_upload(requests: Iterator[UploadRequest]) -> tuple[Announcement, Iterator[bytes]]:
    """An upload's header and its chunks, which are read as they come."""
    first = next(requests, None)
    if first is None or not first.HasField("header"):
        raise InputError("an upload begins with a header")
    header = first.header

    def chunks() -> Iterator[bytes]:
        for request in requests:
            if not request.HasField("chunk"):
                raise InputError("an upload has chunks after its header, and nothing else")
            yield request.chunk

    return Announcement(header.name, header.sha256, header.size_bytes), chunks()


def to_summary(manifest: Manifest) -> artifacts_pb2.ArtifactSummary:
    """Builds the message of the head of an artifact's manifest."""
    return artifacts_pb2.ArtifactSummary(
        digest=manifest.digest,
        model_name=manifest.model.name,
        target=manifest.target.name,
        latency=to_latency(manifest.latency),
        dense_latency=to_latency(manifest.dense_latency),
        quality=to_quality(manifest.quality),
        created_at=manifest.created_at,
    )


def from_summary(message: artifacts_pb2.ArtifactSummary) -> ArtifactSummary:
    """Reads the head of an artifact's manifest."""
    dense = from_latency(message.dense_latency) if message.HasField("dense_latency") else None
    return ArtifactSummary(
        digest=message.digest,
        model_name=message.model_name,
        target=message.target,
        latency=from_latency(message.latency) if message.HasField("latency") else None,
        dense_latency=dense,
        quality=from_quality(message.quality) if message.HasField("quality") else None,
        created_at=message.created_at,
    )


def _timestamp(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    fraction, whole = math.modf(seconds)
    return Timestamp(seconds=int(whole), nanos=int(fraction * 1e9))


def _seconds(message: Timestamp) -> float:
    return message.seconds + message.nanos / 1e9
