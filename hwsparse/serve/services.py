"""The protocol's methods: each reads its request, asks the house, and words the answer.

Errors leave as exceptions; `status` turns them into what a caller sees. No name from a caller becomes a
path: files are found by their digest or in the server's own lists. Knows neither ports nor processes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from hwsparse.errors import ArtifactError, InputError, ServiceError, UnknownNameError
from hwsparse.plan import Plan, parse_choice
from hwsparse.range_methods import DEFAULT_METHOD, require_use
from hwsparse.serve import wire
from hwsparse.serve.jobfiles import JobRequest
from hwsparse.serve.jobs import Jobs
from hwsparse.serve.operation import Operation
from hwsparse.serve.uploads import NAME, SHA256, Uploads
from hwsparse.serve.v1 import (
    artifacts_pb2,
    artifacts_pb2_grpc,
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    optimization_pb2,
    optimization_pb2_grpc,
    targets_pb2,
    targets_pb2_grpc,
)
from hwsparse.store import ArtifactStore
from hwsparse.target import Target

R = TypeVar("R")

MAX_PAGE, USUAL_PAGE = 500, 100
MAX_REQUEST_ID = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """What the methods work with."""

    targets: Mapping[str, Target]
    models: Uploads
    datasets: Uploads
    data: Path | None  # the server's own data sets, NAME.npz
    store: ArtifactStore
    jobs: Jobs
    idle_s: float  # the longest silence of a caller that sends a file

    def target(self, name: str) -> Target:
        """The device of this name."""
        if name not in self.targets:
            known = ", ".join(sorted(self.targets))
            raise UnknownNameError(f"no target {name[:100]!r} on this server; it has {known}")
        return self.targets[name]

    def own_datasets(self) -> dict[str, Path]:
        """The server's own data sets, by name."""
        found = self.data.glob("*.npz") if self.data is not None else ()
        named = {path.stem: path for path in found if path.is_file()}
        # What looks like a digest would stand in the way of an upload.
        return {name: named[name] for name in sorted(named) if NAME.fullmatch(name) and not SHA256.fullmatch(name)}

    def dataset(self, wanted: str) -> tuple[Path, str]:
        """Path and name of a data set, from the digest of an upload or the name of the server's own."""
        if (upload := self.datasets.find(wanted)) is not None:
            return upload.path, upload.name
        own = self.own_datasets()
        if wanted not in own:
            known = ", ".join(own) or "none of its own"
            raise UnknownNameError(f"no data set {wanted[:100]!r} on this server; upload it (it has {known})")
        return own[wanted], wanted


class TargetService(targets_pb2_grpc.TargetServiceServicer):
    """Answers what devices there are."""

    def __init__(self, house: House) -> None:
        self._house = house

    def ListTargets(  # noqa: N802  # the name in the proto
        self, request: targets_pb2.ListTargetsRequest, context: grpc.ServicerContext
    ) -> targets_pb2.ListTargetsResponse:
        targets = sorted(self._house.targets.values(), key=lambda target: target.name)
        return targets_pb2.ListTargetsResponse(targets=map(wire.to_target, targets))

    def GetTarget(  # noqa: N802
        self, request: targets_pb2.GetTargetRequest, context: grpc.ServicerContext
    ) -> targets_pb2.GetTargetResponse:
        return targets_pb2.GetTargetResponse(target=wire.to_target(self._house.target(request.name)))


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Takes models."""

    def __init__(self, house: House) -> None:
        self._house = house

    def UploadModel(  # noqa: N802
        self, request_iterator: Iterator[models_pb2.UploadModelRequest], context: grpc.ServicerContext
    ) -> models_pb2.UploadModelResponse:
        sent = _prompt(request_iterator, context, self._house.idle_s)
        upload = self._house.models.receive(*wire.from_upload(sent))
        return models_pb2.UploadModelResponse(model=wire.to_upload(upload))

    def GetModel(  # noqa: N802
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> models_pb2.GetModelResponse:
        return models_pb2.GetModelResponse(model=wire.to_upload(self._house.models.get(request.sha256, "model")))


class DatasetService(datasets_pb2_grpc.DatasetServiceServicer):
    """Takes data sets, and tells the server's own."""

    def __init__(self, house: House) -> None:
        self._house = house

    def UploadDataset(  # noqa: N802
        self, request_iterator: Iterator[datasets_pb2.UploadDatasetRequest], context: grpc.ServicerContext
    ) -> datasets_pb2.UploadDatasetResponse:
        sent = _prompt(request_iterator, context, self._house.idle_s)
        upload = self._house.datasets.receive(*wire.from_upload(sent))
        return datasets_pb2.UploadDatasetResponse(dataset=wire.to_upload(upload))

    def ListDatasets(  # noqa: N802
        self, request: datasets_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.ListDatasetsResponse:
        return datasets_pb2.ListDatasetsResponse(names=self._house.own_datasets())


class OptimizationService(optimization_pb2_grpc.OptimizationServiceServicer):
    """Starts work, and tells its front."""

    def __init__(self, house: House) -> None:
        self._house = house

    def Optimize(  # noqa: N802
        self, request: optimization_pb2.OptimizeRequest, context: grpc.ServicerContext
    ) -> optimization_pb2.OptimizeResponse:
        model = self._house.models.get(request.model_sha256, "model")
        target = self._target(request)
        dtypes = tuple(dict.fromkeys(request.dtypes)) or target.usual_dtypes
        for dtype in dtypes:
            target.require_type(dtype)
        ranges = request.ranges or DEFAULT_METHOD
        require_use(ranges, dtypes)
        path, name = self._house.dataset(request.dataset)
        job = JobRequest(
            kind="optimize",
            model_path=str(model.path),
            model_name=model.name,
            model_sha256=model.sha256,
            shapes=wire.from_shapes(request.input_shapes),
            target=target.name,
            dataset_path=str(path),
            dataset_name=name,
            seed=request.seed,
            threads=request.threads or None,
            store=self._house.store.location,
            budget=wire.from_budget(request.budget),
            dtypes=dtypes,
            ranges=ranges,
        )
        operation = self._submit(job, request.request_id)
        return optimization_pb2.OptimizeResponse(operation=wire.to_operation(operation))

    def Compile(  # noqa: N802
        self, request: optimization_pb2.CompileRequest, context: grpc.ServicerContext
    ) -> optimization_pb2.CompileResponse:
        model = self._house.models.get(request.model_sha256, "model")
        target = self._target(request)
        path, name = self._house.dataset(request.dataset) if request.dataset else (None, None)
        plan = Plan.from_json(request.plan_json) if request.HasField("plan_json") else None
        choice = parse_choice(request.uniform_choice) if request.HasField("uniform_choice") else None
        asked = {each for _, each in plan.choices} if plan else {choice}
        for wanted in asked:
            if wanted is not None and not wanted.is_plain:
                target.require(wanted)
        ranges = request.ranges or DEFAULT_METHOD
        require_use(ranges, (wanted.dtype for wanted in asked if wanted is not None))
        job = JobRequest(
            kind="compile",
            model_path=str(model.path),
            model_name=model.name,
            model_sha256=model.sha256,
            shapes=wire.from_shapes(request.input_shapes),
            target=target.name,
            dataset_path=str(path) if path else None,
            dataset_name=name,
            seed=request.seed,
            threads=request.threads or None,
            store=self._house.store.location,
            ranges=ranges,
            plan=plan,
            choice=str(choice) if choice else None,
        )
        operation = self._submit(job, request.request_id)
        return optimization_pb2.CompileResponse(operation=wire.to_operation(operation))

    def GetParetoFront(  # noqa: N802
        self, request: optimization_pb2.GetParetoFrontRequest, context: grpc.ServicerContext
    ) -> optimization_pb2.GetParetoFrontResponse:
        points, complete = self._house.jobs.front(request.operation)
        return optimization_pb2.GetParetoFrontResponse(points=map(wire.to_point, points), complete=complete)

    def GetReport(  # noqa: N802
        self, request: optimization_pb2.GetReportRequest, context: grpc.ServicerContext
    ) -> optimization_pb2.GetReportResponse:
        return optimization_pb2.GetReportResponse(report_json=self._house.jobs.report(request.operation))

    def _target(self, request: optimization_pb2.OptimizeRequest | optimization_pb2.CompileRequest) -> Target:
        """The device that a request names, with the threads it asks for; it can be timed here, or estimated."""
        target = self._house.target(request.target)
        if request.threads:
            target = target.with_threads(request.threads)
        if not target.estimable:
            target.require_timing()
        return target

    def _submit(self, job: JobRequest, request_id: str) -> Operation:
        if len(request_id) > MAX_REQUEST_ID:
            raise InputError(f"a request id has at most {MAX_REQUEST_ID} characters")
        return self._house.jobs.submit(job, request_id)


class OperationService(operations_pb2_grpc.OperationServiceServicer):
    """Follows work."""

    def __init__(self, house: House, max_watchers: int) -> None:
        self._jobs = house.jobs
        self._watchers = threading.Semaphore(max_watchers)  # each holds a thread for as long as it watches

    def GetOperation(  # noqa: N802
        self, request: operations_pb2.GetOperationRequest, context: grpc.ServicerContext
    ) -> operations_pb2.GetOperationResponse:
        operation = wire.to_operation(self._jobs.get(request.name))
        return operations_pb2.GetOperationResponse(operation=operation)

    def ListOperations(  # noqa: N802
        self, request: operations_pb2.ListOperationsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        token = request.page_token
        if token and not (token.isascii() and token.isdigit() and len(token) < 19):
            raise InputError(f"{token[:100]!r} is no page token of this server")
        page, following = self._jobs.page(_page_size(request.page_size), int(token) if token else None)
        return operations_pb2.ListOperationsResponse(
            operations=map(wire.to_operation, page), next_page_token=str(following or "")
        )

    def WatchOperation(  # noqa: N802
        self, request: operations_pb2.WatchOperationRequest, context: grpc.ServicerContext
    ) -> Iterator[operations_pb2.WatchOperationResponse]:
        if not self._watchers.acquire(blocking=False):
            raise ServiceError("too many callers watch this server's operations; ask with GetOperation")
        try:
            for operation in self._jobs.watch(request.name, context.is_active):
                yield operations_pb2.WatchOperationResponse(operation=wire.to_operation(operation))
        finally:
            self._watchers.release()

    def CancelOperation(  # noqa: N802
        self, request: operations_pb2.CancelOperationRequest, context: grpc.ServicerContext
    ) -> operations_pb2.CancelOperationResponse:
        operation = wire.to_operation(self._jobs.cancel(request.name))
        return operations_pb2.CancelOperationResponse(operation=operation)


class ArtifactService(artifacts_pb2_grpc.ArtifactServiceServicer):
    """Hands out artifacts."""

    def __init__(self, house: House) -> None:
        self._store = house.store
        self._summary = functools.lru_cache(4096)(self._read_summary)  # artifacts never change

    def ListArtifacts(  # noqa: N802
        self, request: artifacts_pb2.ListArtifactsRequest, context: grpc.ServicerContext
    ) -> artifacts_pb2.ListArtifactsResponse:
        left = [digest for digest in self._store.list() if digest > request.page_token]
        size = _page_size(request.page_size)
        summaries = []
        for digest in left[:size]:
            try:
                summaries.append(self._summary(digest))
            except ArtifactError as error:  # one that was damaged must not hide the others
                _log.error("%s", error)
        return artifacts_pb2.ListArtifactsResponse(
            artifacts=summaries, next_page_token=left[size - 1] if len(left) > size else ""
        )

    def GetManifest(  # noqa: N802
        self, request: artifacts_pb2.GetManifestRequest, context: grpc.ServicerContext
    ) -> artifacts_pb2.GetManifestResponse:
        manifest = self._store.manifest(self._known(request.digest))
        return artifacts_pb2.GetManifestResponse(manifest_json=manifest.text)

    def DownloadArtifact(  # noqa: N802
        self, request: artifacts_pb2.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifacts_pb2.DownloadArtifactResponse]:
        digest = self._known(request.digest)
        header = artifacts_pb2.DownloadArtifactHeader(size_bytes=self._store.size(digest))
        yield artifacts_pb2.DownloadArtifactResponse(header=header)
        sha256 = hashlib.sha256()
        for chunk in self._store.read(digest):
            sha256.update(chunk)
            yield artifacts_pb2.DownloadArtifactResponse(chunk=chunk)
        trailer = artifacts_pb2.DownloadArtifactTrailer(sha256=sha256.hexdigest())
        yield artifacts_pb2.DownloadArtifactResponse(trailer=trailer)

    def _known(self, digest: str) -> str:
        if digest not in self._store:
            raise UnknownNameError(f"no artifact {digest[:80]!r} on this server")
        return digest

    def _read_summary(self, digest: str) -> artifacts_pb2.ArtifactSummary:
        return wire.to_summary(self._store.manifest(digest))


def _prompt(requests: Iterator[R], context: grpc.ServicerContext, idle_s: float) -> Iterator[R]:
    """What a caller sends; one that falls silent is cut off, so that it does not hold a thread for ever."""
    while True:
        silence = threading.Timer(idle_s, context.cancel)
        silence.daemon = True
        silence.start()
        try:
            request = next(requests, None)
        finally:
            silence.cancel()
        if request is None:
            return
        yield request


def _page_size(wanted: int) -> int:
    return min(wanted or USUAL_PAGE, MAX_PAGE)
