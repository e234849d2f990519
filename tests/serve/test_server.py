from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hwsparse.errors import FullError, InputError, ServiceError, UnknownNameError
from hwsparse.plan import parse_choice
from hwsparse.serve.client import Client
from hwsparse.serve.operation import OperationState
from hwsparse.serve.server import Server
from hwsparse.serve.status import received
from hwsparse.serve.v1 import (
    models_pb2,
    models_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    targets_pb2,
    targets_pb2_grpc,
    uploads_pb2,
)
from tests.serve.conftest import StartServer
from tests.serve.test_jobs import wait_until_dead

SERVICES = {
    f"hwsparse.v1.{name}Service" for name in ("Target", "Model", "Dataset", "Optimization", "Operation", "Artifact")
}

# A server as a process of its own; its arguments: state directory.
SERVE = """
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from hwsparse.serve.server import ServerSettings, serve
from tests.serve.conftest import COMMAND, TARGETS
serve(
    ServerSettings(Path(sys.argv[1]), COMMAND, TARGETS, port=0),
    lambda address: print(address, flush=True),
)
print("stopped")
"""


def channel_to(server: Server) -> grpc.Channel:
    return grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)])


def start_process(state: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(state)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_health_and_reflection_are_on(server: Server) -> None:
    with channel_to(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="hwsparse.v1.Operation"),
        ]
        listed, described = ask(iter(requests), timeout=10)
        names = {service.name for service in listed.list_services_response.service}
        assert names >= SERVICES
        file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
        assert file.name == "hwsparse/v1/operations.proto"


def test_a_port_in_use_is_one_clear_error(start_server: StartServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            start_server(port=port)
    assert not (tmp_path / "state").exists()
    start_server(port=port)


def test_two_servers_cannot_share_a_port_or_a_state(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    with pytest.raises(ServiceError, match="another server keeps its state there"):
        start_server()
    with pytest.raises(ServiceError, match="cannot listen on"):
        start_server(state=tmp_path / "other", port=int(first.address.rpartition(":")[2]))
    first.stop()
    start_server()


def test_a_state_that_cannot_be_kept_is_one_clear_error(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ServiceError, match="cannot keep the server's state there"):
        start_server(state=tmp_path / "file")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "models").write_text("x")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServiceError, match="cannot keep the server's state there"):
        start_server(state=tmp_path / "half", port=port)
    start_server(port=port)  # which was let go


def test_an_open_address_is_warned_of(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    start_server(host="0.0.0.0")
    assert "whoever reaches 0.0.0.0:0 can use this server" in caplog.text


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no-such-host.invalid", 0), ("[::1]", 0)])
def test_an_address_that_is_not_ours_is_one_clear_error(
    start_server: StartServer, capfd: pytest.CaptureFixture[str], host: str, port: int
) -> None:
    with pytest.raises(ServiceError, match="cannot listen on"):
        start_server(host=host, port=port)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"port": -1},
        {"port": 65536},
        {"max_jobs": 0},
        {"threads": 1},
        {"grace_s": -1},
        {"idle_s": 0},
        {"max_queued": 0},
        {"max_state_bytes": 0},
    ],
)
def test_settings_are_checked(start_server: StartServer, change: dict[str, int]) -> None:
    with pytest.raises(InputError):
        start_server(**change)


def test_ipv6_is_spoken(start_server: StartServer) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with Client(start_server(host="::1").address) as client:
        assert len(client.targets()) == 2


def test_watchers_leave_threads_for_others(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(threads=4)
    (tmp_path / "wait.onnx").write_bytes(b"x")
    with Client(server.address) as client, channel_to(server) as channel:
        name = client.compile(client.upload_model(tmp_path / "wait.onnx"), "tiny", parse_choice("dense")).name
        watch = operations_pb2_grpc.OperationServiceStub(channel).WatchOperation
        watchers = [watch(operations_pb2.WatchOperationRequest(name=name)) for _ in range(2)]
        for watcher in watchers:
            next(watcher)
        with pytest.raises(ServiceError, match="too many callers watch"):
            list(client.watch(name))
        assert client.get(name).name == name
        for watcher in watchers:
            watcher.cancel()
        client.cancel(name)


def test_too_large_a_message_is_refused(server: Server) -> None:
    with channel_to(server) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        header = uploads_pb2.UploadHeader(name="m", sha256="0" * 64, size_bytes=9 << 20)
        parts = [
            models_pb2.UploadModelRequest(header=header),
            models_pb2.UploadModelRequest(chunk=bytes(5 << 20)),
        ]
        with pytest.raises(grpc.RpcError) as caught:
            stub.UploadModel(iter(parts), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_page_token_of_another_server_is_refused(server: Server) -> None:
    with channel_to(server) as channel:
        stub = operations_pb2_grpc.OperationServiceStub(channel)
        for token in ("abc", "-1", "9" * 30, "²"):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListOperations(operations_pb2.ListOperationsRequest(page_token=token), timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_upload_that_is_given_up_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with channel_to(server) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        header = uploads_pb2.UploadHeader(name="m", sha256="0" * 64, size_bytes=100)
        parts = [
            models_pb2.UploadModelRequest(header=header),
            models_pb2.UploadModelRequest(chunk=b"part"),
        ]
        with pytest.raises(grpc.RpcError) as caught:
            stub.UploadModel(iter(parts), timeout=10)
        assert caught.value.details() == "m: 4 bytes came of the 100 announced"
    assert [p for p in (tmp_path / "state" / "models").rglob("*") if p.is_file()] == []


def until_answered(client: Client) -> None:
    """Waits until the server has a thread for this caller."""
    for _ in range(1000):
        try:
            client.targets()
        except FullError:
            threading.Event().wait(0.01)
        else:
            return
    raise AssertionError("every thread is taken")


def until_empty(directory: Path) -> None:
    """Waits until no file is left: a caller is answered before what it sent is removed."""
    for _ in range(1000):
        if not any(path.is_file() for path in directory.rglob("*")):
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{directory} still holds files")


def test_a_caller_that_falls_silent_is_cut_off(start_server: StartServer, tmp_path: Path) -> None:
    server, silence = start_server(threads=2, idle_s=0.2), threading.Event()

    def parts() -> Iterator[models_pb2.UploadModelRequest]:
        header = uploads_pb2.UploadHeader(name="m", sha256="0" * 64, size_bytes=100)
        yield models_pb2.UploadModelRequest(header=header)
        silence.wait(60)

    with channel_to(server) as channel, Client(server.address) as client:
        calls = [models_pb2_grpc.ModelServiceStub(channel).UploadModel.future(parts(), timeout=50) for _ in range(2)]
        for call in calls:
            error = call.exception(timeout=40)
            assert error.code() is grpc.StatusCode.CANCELLED
            assert "nothing was sent for too long" in str(received(error, server.address))
        until_answered(client)
        silence.set()
    until_empty(tmp_path / "state" / "models")


def test_a_full_server_takes_no_more(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    server = start_server(max_state_bytes=200_000)
    with Client(server.address) as client:
        model = client.upload_model(tmp_path / "m.onnx")
        first = client.compile(model, "tiny", parse_choice("dense"), request_id="once")
        (tmp_path / "state" / "filler").write_bytes(bytes(200_000))
        (tmp_path / "other.onnx").write_bytes(b"y")
        for call in (
            lambda: client.upload_model(tmp_path / "other.onnx"),
            lambda: client.compile(model, "tiny", parse_choice("dense")),
        ):
            with pytest.raises(ServiceError, match=f"{server.address} takes no more now: .* may keep 200000 bytes"):
                call()
        assert client.compile(model, "tiny", parse_choice("dense"), request_id="once").name == first.name


def test_bytes_that_are_no_message_get_a_status(server: Server) -> None:
    with channel_to(server) as channel:
        for method in ("TargetService/GetTarget", "OptimizationService/Optimize"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/hwsparse.v1.{method}")(b"\xff" * 50, timeout=10)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
        stub = targets_pb2_grpc.TargetServiceStub(channel)
        assert len(stub.ListTargets(targets_pb2.ListTargetsRequest(), timeout=10).targets) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_server_and_workers(tmp_path: Path, number: signal.Signals) -> None:
    process, address = start_process(tmp_path / "state")
    (tmp_path / "wait.onnx").write_bytes(b"x")
    with process, Client(address) as client:
        handle = client.compile(client.upload_model(tmp_path / "wait.onnx"), "tiny", parse_choice("dense"))
        next(o for o in handle.watch() if o.progress.stage == "waiting")
        pids = (tmp_path / "state" / "jobs" / handle.name / "pids").read_text().split()
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.read() == "stopped\n"
        assert process.wait() == 0
        for pid in map(int, pids):
            wait_until_dead(pid)
        with pytest.raises(ServiceError, match=f"the server at {address} cannot be reached"):
            handle.get()


def test_a_killed_server_leaves_no_worker_and_the_next_one_says_what_became_of_it(
    tmp_path: Path, start_server: StartServer
) -> None:
    process, address = start_process(tmp_path / "state")
    (tmp_path / "wait.onnx").write_bytes(b"x")
    with process, Client(address) as client:
        digest = client.upload_model(tmp_path / "wait.onnx")
        handle = client.compile(digest, "tiny", parse_choice("dense"))
        next(o for o in handle.watch() if o.progress.stage == "waiting")
        pids = (tmp_path / "state" / "jobs" / handle.name / "pids").read_text().split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for pid in map(int, pids):
            wait_until_dead(pid)
    with Client(start_server().address) as client:
        operation = client.get(handle.name)
        assert operation.state is OperationState.FAILED
        assert operation.error is not None
        assert operation.error.message == "the server stopped while the job was running"
        assert operation.progress.stage == "waiting"
        again = client.compile(digest, "tiny", parse_choice("2:4"))  # the upload is still there
        again.cancel()


def test_the_service_imports_no_heavy_package() -> None:
    code = (
        "import sys, hwsparse.serve.server, hwsparse.serve.client\n"
        "print(sorted({'torch', 'optuna', 'tvm', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_own_data_sets_are_found_by_name_only(start_server: StartServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("files.npz", "other.txt", f"{'0' * 64}.npz", ".hidden.npz", "with space.npz"):
        (data / name).write_bytes(b"x")
    (tmp_path / "secret.npz").write_bytes(b"x")
    (data / "directory.npz").mkdir()
    with Client(start_server(data=data).address) as client:
        assert client.datasets() == ("files",)
        (tmp_path / "late-crash.onnx").write_bytes(b"x")
        model = client.upload_model(tmp_path / "late-crash.onnx")
        choice = parse_choice("dense")
        assert client.compile(model, "tiny", choice, dataset="files").result().artifacts == ()
        for name in ("../secret", "secret", str(tmp_path / "secret.npz"), "0" * 64):
            with pytest.raises(UnknownNameError, match=r"no data set .*it has files"):
                client.compile(model, "tiny", choice, dataset=name)


def test_the_same_state_serves_again(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    (tmp_path / "good.onnx").write_bytes(b"x")
    with Client(server.address) as client:
        model = client.upload_model(tmp_path / "good.onnx")
        result = client.compile(model, "tiny", parse_choice("2:4"), request_id="once").result()
    server.stop()
    with Client(start_server().address) as client:
        assert [summary.digest for summary in client.artifacts()] == list(result.artifacts)
        again = client.compile(model, "tiny", parse_choice("2:4"), request_id="once")
        assert again.result() == result
