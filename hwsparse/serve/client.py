"""The client: the service's methods as plain calls on the types of the house.

Every failure is an HwsparseError of one line: InputError and its kind for what was asked wrongly,
ServiceError for a server that cannot be reached or failed, ArtifactError for bytes that are not what they
should be. Knows nothing of how the work is done.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc

from hwsparse.artifact import Artifact, Manifest, parse_manifest, unpack
from hwsparse.errors import ArtifactError, InputError, ServiceError
from hwsparse.plan import Choice, Plan
from hwsparse.serve import wire
from hwsparse.serve.operation import (
    ArtifactSummary,
    Budget,
    FrontPoint,
    JobResult,
    Operation,
    OperationState,
)
from hwsparse.serve.status import raised_by_job, received
from hwsparse.serve.transfer import OnBytes, announce, ended, incoming, outgoing
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
from hwsparse.target import Target

A = TypeVar("A")

MAX_DOWNLOAD_BYTES = 8 << 30
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 30_000),  # a watched server that dies without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
]
_LOOPBACK = re.compile(r"(ipv[46]:)?(127\.|localhost:|\[::1\]:)")


class Client:
    """A connection to one server, made when first used. Safe to use from many threads."""

    def __init__(self, address: str, *, timeout_s: float = 30.0) -> None:
        """Prepares a connection to HOST:PORT.

        Args:
            timeout_s: the longest to wait for an answer. Uploads, downloads and watching take as long as
                they take.
        """
        self._address = address
        self._timeout_s = timeout_s
        options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if _LOOPBACK.match(address) else _OPTIONS
        channel = grpc.insecure_channel(address, options)
        self._channel = channel
        self._targets = targets_pb2_grpc.TargetServiceStub(channel)
        self._models = models_pb2_grpc.ModelServiceStub(channel)
        self._datasets = datasets_pb2_grpc.DatasetServiceStub(channel)
        self._optimization = optimization_pb2_grpc.OptimizationServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationServiceStub(channel)
        self._artifacts = artifacts_pb2_grpc.ArtifactServiceStub(channel)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def targets(self) -> tuple[Target, ...]:
        """Every device that the server knows, by name."""
        answer = self._call(self._targets.ListTargets, targets_pb2.ListTargetsRequest())
        return tuple(map(wire.from_target, answer.targets))

    def target(self, name: str) -> Target:
        """One device."""
        answer = self._call(self._targets.GetTarget, targets_pb2.GetTargetRequest(name=name))
        return wire.from_target(answer.target)

    def upload_model(self, path: Path, progress: OnBytes | None = None) -> str:
        """Sends an ONNX file, unless the server has it; gives the digest that requests call it by.

        Args:
            progress: told the bytes sent and the bytes there are.
        """
        announced = announce(path)
        header = models_pb2.UploadModelRequest(header=wire.to_header(announced))

        def parts() -> Iterator[models_pb2.UploadModelRequest]:
            yield header
            for chunk in outgoing(path, announced, progress):
                yield models_pb2.UploadModelRequest(chunk=chunk)

        with self._errors():
            return self._models.UploadModel(parts()).model.sha256

    def upload_dataset(self, path: Path, progress: OnBytes | None = None) -> str:
        """Sends an .npz file, as `upload_model` does."""
        announced = announce(path)
        header = datasets_pb2.UploadDatasetRequest(header=wire.to_header(announced))

        def parts() -> Iterator[datasets_pb2.UploadDatasetRequest]:
            yield header
            for chunk in outgoing(path, announced, progress):
                yield datasets_pb2.UploadDatasetRequest(chunk=chunk)

        with self._errors():
            return self._datasets.UploadDataset(parts()).dataset.sha256

    def datasets(self) -> tuple[str, ...]:
        """Names of the server's own data sets."""
        answer = self._call(self._datasets.ListDatasets, datasets_pb2.ListDatasetsRequest())
        return tuple(answer.names)

    def optimize(
        self,
        model: str,
        target: str,
        dataset: str,
        budget: Budget,
        *,
        seed: int = 0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        threads: int = 0,
        dtypes: Sequence[str] = (),
        ranges: str = "",
        request_id: str = "",
    ) -> OperationHandle:
        """Asks for a search, and artifacts of its best.

        Args:
            model: digest from `upload_model`.
            target: a device's name.
            dataset: digest from `upload_dataset`, or the name of one of the server's own.
            shapes: for inputs whose shape the model leaves open.
            threads: that inference runs with; 0 for the device's own number.
            dtypes: of weights, and of what layers read, to choose from: float32, float16, bfloat16, int8; none:
                float32, or what the device's accelerator is of.
            ranges: how the range of what int8 layers read is found on samples; none: as the server does.
            request_id: with one, the request may be sent again without being done again.
        """
        with _checked():
            request = optimization_pb2.OptimizeRequest(
                model_sha256=model,
                input_shapes=wire.to_shapes(shapes or {}),
                target=target,
                dataset=dataset,
                budget=wire.to_budget(budget),
                seed=seed,
                threads=threads,
                dtypes=dtypes,
                ranges=ranges,
                request_id=request_id,
            )
        answer = self._call(self._optimization.Optimize, request)
        return OperationHandle(self, answer.operation.name)

    def compile(
        self,
        model: str,
        target: str,
        sparsity: Plan | Choice,
        *,
        dataset: str = "",
        seed: int = 0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        threads: int = 0,
        ranges: str = "",
        request_id: str = "",
    ) -> OperationHandle:
        """Asks for the artifact of one plan, or of one choice for every layer that can have it.

        Args:
            dataset: what to measure quality on; none: it is not measured.
            threads: as for `optimize`, and so are `ranges`.
        """
        with _checked():
            request = optimization_pb2.CompileRequest(
                model_sha256=model,
                input_shapes=wire.to_shapes(shapes or {}),
                target=target,
                dataset=dataset,
                seed=seed,
                threads=threads,
                ranges=ranges,
                request_id=request_id,
            )
            if isinstance(sparsity, Plan):
                request.plan_json = sparsity.to_json()
            else:
                request.uniform_choice = str(sparsity)
        answer = self._call(self._optimization.Compile, request)
        return OperationHandle(self, answer.operation.name)

    def operation(self, name: str) -> OperationHandle:
        """A handle on an operation that was asked for before."""
        return OperationHandle(self, name)

    def operations(self) -> Iterator[Operation]:
        """Every operation, newest first, without its progress."""
        token = ""
        while True:
            request = operations_pb2.ListOperationsRequest(page_token=token)
            answer = self._call(self._operations.ListOperations, request)
            yield from map(wire.from_operation, answer.operations)
            token = answer.next_page_token
            if not token:
                return

    def get(self, name: str) -> Operation:
        """An operation as it stands."""
        request = operations_pb2.GetOperationRequest(name=name)
        return wire.from_operation(self._call(self._operations.GetOperation, request).operation)

    def watch(self, name: str) -> Iterator[Operation]:
        """An operation now, and again whenever it has changed; the last one is done."""
        request = operations_pb2.WatchOperationRequest(name=name)
        operation = None
        with self._errors(), ended(self._operations.WatchOperation(request)) as answers:
            for answer in answers:
                operation = wire.from_operation(answer.operation)
                yield operation
        if operation is None or not operation.state.done:
            raise ServiceError(f"the server at {self._address} ended its report before the operation was done")

    def cancel(self, name: str) -> Operation:
        """Asks for an operation to be stopped."""
        request = operations_pb2.CancelOperationRequest(name=name)
        return wire.from_operation(self._call(self._operations.CancelOperation, request).operation)

    def front(self, name: str) -> tuple[FrontPoint, ...]:
        """The front of an operation, as far as it is known."""
        request = optimization_pb2.GetParetoFrontRequest(operation=name)
        answer = self._call(self._optimization.GetParetoFront, request)
        return tuple(map(wire.from_point, answer.points))

    def report(self, name: str) -> str:
        """All that a search found, as `hwsparse.report.parse_report` reads it.

        Raises:
            UnsupportedError: the operation has not succeeded, or was no search.
        """
        request = optimization_pb2.GetReportRequest(operation=name)
        return str(self._call(self._optimization.GetReport, request).report_json)

    def artifacts(self) -> Iterator[ArtifactSummary]:
        """What the server's store holds, by digest."""
        token = ""
        while True:
            request = artifacts_pb2.ListArtifactsRequest(page_token=token)
            answer = self._call(self._artifacts.ListArtifacts, request)
            yield from map(wire.from_summary, answer.artifacts)
            token = answer.next_page_token
            if not token:
                return

    def manifest(self, digest: str) -> Manifest:
        """The manifest of an artifact, verified."""
        answer = self._call(self._artifacts.GetManifest, artifacts_pb2.GetManifestRequest(digest=digest))
        manifest = parse_manifest(answer.manifest_json, f"manifest from {self._address}")
        if manifest.digest != digest:
            raise ArtifactError(f"the server at {self._address} sent the manifest of {manifest.digest}")
        return manifest

    def download(self, digest: str, directory: Path, progress: OnBytes | None = None) -> Artifact:
        """Fetches an artifact; `directory` appears whole and verified, or not at all.

        Args:
            progress: told the bytes received and the bytes there are.

        Raises:
            ArtifactError: something is in the way, or what came is not the artifact.
        """
        request = artifacts_pb2.DownloadArtifactRequest(digest=digest)
        with self._errors(), ended(self._artifacts.DownloadArtifact(request)) as parts:
            chunks = incoming(parts, progress)
            return unpack(chunks, directory, digest=digest, max_bytes=MAX_DOWNLOAD_BYTES)

    def _call(self, method: Callable[..., A], request: object) -> A:
        with self._errors():
            return method(request, timeout=self._timeout_s)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise received(error, self._address) from None


@dataclass(frozen=True, slots=True)
class OperationHandle:
    """An operation on a server: to follow, to stop, to have the result of."""

    client: Client
    name: str

    def get(self) -> Operation:
        """The operation as it stands."""
        return self.client.get(self.name)

    def watch(self) -> Iterator[Operation]:
        """The operation now, and again whenever it has changed; the last one is done."""
        return self.client.watch(self.name)

    def cancel(self) -> Operation:
        """Asks for the operation to be stopped."""
        return self.client.cancel(self.name)

    def front(self) -> tuple[FrontPoint, ...]:
        """The front, as far as it is known."""
        return self.client.front(self.name)

    def report(self) -> str:
        """All that a search found, as `hwsparse.report.parse_report` reads it."""
        return self.client.report(self.name)

    def result(self) -> JobResult:
        """Waits for the operation to be done, and gives what came of it.

        Raises:
            HwsparseError: it failed or was cancelled: the error it ended with, as its own type.
        """
        for operation in self.watch():
            if operation.state is OperationState.SUCCEEDED:
                return JobResult(operation.artifacts, self.front())
            if operation.error is not None:
                raise raised_by_job(operation.error)
        raise ServiceError(f"operation {self.name} ended without a result")


@contextlib.contextmanager
def _checked() -> Iterator[None]:
    """Translates what protobuf says of values that the protocol cannot carry."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"the request cannot be sent: {error}") from None
