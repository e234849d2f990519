"""The server: one port, one directory for its state, one thread pool for its calls.

It has neither passwords nor encryption, and so listens on the loopback address unless told otherwise.
Knows no method of the protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hwsparse.errors import InputError, ServiceError
from hwsparse.serve import services
from hwsparse.serve.jobs import Jobs
from hwsparse.serve.room import Room
from hwsparse.serve.status import StatusInterceptor
from hwsparse.serve.uploads import Uploads
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
from hwsparse.serve.worker import JobCommand
from hwsparse.store import ArtifactStore
from hwsparse.target import Target

MAX_MESSAGE_BYTES = 4 << 20
_log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else two servers would share a port without noticing
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # a front of a large model; what is sent is ours
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # callers that watch ask if we live
    ("grpc.keepalive_permit_without_calls", 1),
)
_NAMES = tuple(
    file.services_by_name[name].full_name
    for file in (
        targets_pb2.DESCRIPTOR,
        models_pb2.DESCRIPTOR,
        datasets_pb2.DESCRIPTOR,
        optimization_pb2.DESCRIPTOR,
        operations_pb2.DESCRIPTOR,
        artifacts_pb2.DESCRIPTOR,
    )
    for name in file.services_by_name
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve.

    Args:
        state: directory of everything the server keeps: uploads, jobs and, unless `store` says otherwise,
            artifacts. One server at a time.
        command: starts a worker, given a job's directory as one more argument.
        targets: what callers can ask for.
        port: 0 for any that is free.
        data: directory of data sets that callers can use by name, NAME.npz.
        store: where artifacts go, a path or fsspec URL.
        max_queued: jobs that may wait.
        max_upload_bytes, max_state_bytes: of one file that a caller sends, and of all that is in `state`.
        idle_s: how long a caller that sends a file may be silent.
        threads: calls that are answered at once; half of them may be watching.
        grace_s: how long calls and workers may take to end when the server stops.
    """

    state: Path
    command: JobCommand
    targets: tuple[Target, ...]
    host: str = "127.0.0.1"
    port: int = 50051
    data: Path | None = None
    store: str | None = None
    max_jobs: int = 1
    max_queued: int = 100
    max_upload_bytes: int = 2 << 30
    max_state_bytes: int = 64 << 30
    idle_s: float = 30.0
    threads: int = 32
    grace_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"{self.port} is no port: use 1 to 65535, or 0 for any that is free")
        if min(self.max_jobs, self.max_queued, self.max_upload_bytes, self.max_state_bytes, self.threads - 1) < 1:
            raise InputError("a server needs at least 2 threads, and 1 of jobs, waiting jobs and bytes to keep")
        if self.data is not None and not self.data.is_dir():
            raise InputError(f"{self.data}: not a directory, so it holds no data sets")
        if not (self.grace_s >= 0 and self.idle_s > 0):
            raise InputError("a server's grace is not negative, and the silence that it bears more than 0 s")


class Server:
    """A running server; `with Server(settings) as server:` stops it at the block's end."""

    def __init__(self, settings: ServerSettings) -> None:
        """Starts to serve.

        Raises:
            ServiceError: the port or the state directory is in use or out of reach.
            ArtifactError: the store is out of reach.
        """
        _require_address(settings)  # before anything is written
        with contextlib.ExitStack() as opened:
            opened.enter_context(_claimed(settings.state))
            house = _open_house(settings)
            opened.callback(house.jobs.stop)
            pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="call")
            opened.callback(pool.shutdown)
            # More calls than threads are refused at once: to wait in a line that nobody sees helps no one.
            server = grpc.server(
                pool,
                interceptors=[StatusInterceptor()],
                options=_OPTIONS,
                maximum_concurrent_rpcs=settings.threads,
            )
            _add_services(server, house, settings.threads)
            # What has bound a port and is not started keeps it, so that nothing may fail from here on.
            self.address = f"{_bracketed(settings.host)}:{_bind(server, settings)}"
            server.start()
            house.jobs.start()
            opened.callback(lambda: server.stop(settings.grace_s).wait())
            opened.callback(house.jobs.stop)  # those that watch are told, so that their calls end
            opened.callback(server.stop, settings.grace_s)  # no more calls from here on
            self._opened = opened.pop_all()

    def stop(self) -> None:
        """Takes no more calls, ends the workers, lets running calls finish, each for at most the grace."""
        self._opened.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C; `announce` is told the address. For the main thread.

    Raises:
        ServiceError, ArtifactError: as Server.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Server(settings) as server:
            announce(server.address)
            asked.wait()
            _log.info("stopping")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _claimed(state: Path) -> Iterator[None]:
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ServiceError(f"{state}: cannot keep the server's state there: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServiceError(f"{state}: another server keeps its state there") from None
        yield
    finally:
        os.close(lock)


def _require_address(settings: ServerSettings) -> None:
    """Refuses an address that cannot be had; gRPC would say no more than that it failed, and print the reason."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ServiceError(f"cannot listen on {_bracketed(settings.host)}:{settings.port}: {reason}") from None


def _bind(server: grpc.Server, settings: ServerSettings) -> int:
    address = f"{_bracketed(settings.host)}:{settings.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:  # the port was taken just now
        raise ServiceError(f"cannot listen on {address}") from None
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        _log.warning("whoever reaches %s can use this server: it asks for no password", address)
    return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _open_house(settings: ServerSettings) -> services.House:
    state = settings.state.absolute()
    room = Room(state, settings.max_state_bytes)
    store = ArtifactStore(settings.store if settings.store is not None else state / "artifacts")
    try:
        return services.House(
            targets={target.name: target for target in settings.targets},
            models=Uploads(state / "models", ".onnx", settings.max_upload_bytes, room),
            datasets=Uploads(state / "datasets", ".npz", settings.max_upload_bytes, room),
            data=settings.data.absolute() if settings.data else None,
            store=store,
            jobs=Jobs(
                state / "jobs",
                settings.command,
                store,
                room,
                max_running=settings.max_jobs,
                max_queued=settings.max_queued,
                grace_s=settings.grace_s,
            ),
            idle_s=settings.idle_s,
        )
    except OSError as error:
        raise ServiceError(f"{state}: cannot keep the server's state there: {error.strerror}") from None


def _add_services(server: grpc.Server, house: services.House, threads: int) -> None:
    targets_pb2_grpc.add_TargetServiceServicer_to_server(services.TargetService(house), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(services.ModelService(house), server)
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(services.DatasetService(house), server)
    optimization_pb2_grpc.add_OptimizationServiceServicer_to_server(services.OptimizationService(house), server)
    operation_service = services.OperationService(house, max_watchers=threads // 2)
    operations_pb2_grpc.add_OperationServiceServicer_to_server(operation_service, server)
    artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(services.ArtifactService(house), server)
    alive = health.HealthServicer()
    for name in ("", *_NAMES):
        alive.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    reflection.enable_server_reflection((*_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
