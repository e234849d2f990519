from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsparse.serve.client import Client
from hwsparse.serve.server import Server, ServerSettings
from hwsparse.target import Target

COMMAND = (sys.executable, "-m", "tests.serve.fake_worker")
TARGETS = tuple(
    Target(
        name=name,
        kind=kind,
        description=f"a {kind} for tests",
        tvm_target='{"kind":"llvm"}',
        runner=runner,
        supported=(("block4x1", "float32"), ("2:4", "float32")),
        threads=2,
        cores=2,
        memory_bytes=1 << 33,
        peak_flops=1e11,
        bandwidth_bytes_per_s=1e10,
        vector_bits=256,
        vector_registers=16,
        l1d_bytes=32 << 10,
        isa=isa,
    )
    for name, kind, runner, isa in (
        ("tiny", "cpu", "local", ()),
        ("small", "gpu", "cuda", ("sm_80",)),  # this version has no runner for it
    )
)

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers on free ports with their state in tmp_path / "state"; stops what is left of them."""
    started: list[Server] = []

    def start(**changes: object) -> Server:
        settings: dict[str, object] = {
            "state": tmp_path / "state",
            "command": COMMAND,
            "targets": TARGETS,
            "port": 0,
            "grace_s": 5.0,
        }
        server = Server(ServerSettings(**{**settings, **changes}))  # type: ignore[arg-type]
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def upload(client: Client, tmp_path: Path) -> Callable[[str], str]:
    """Uploads a model of the given name, which tells the fake worker what to do."""

    def send(name: str) -> str:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(f"model {name}".encode())
        return client.upload_model(path)

    return send
