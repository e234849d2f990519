from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest

from hwsparse.artifact import Artifact, pack
from hwsparse.errors import (
    ArtifactError,
    Cancelled,
    InputError,
    ModelError,
    ServiceError,
    UnknownNameError,
    UnsupportedError,
)
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.serve.client import Client, OperationHandle
from hwsparse.serve.jobfiles import read_request
from hwsparse.serve.operation import Budget, OperationState
from hwsparse.serve.server import Server
from hwsparse.serve.v1 import artifacts_pb2, artifacts_pb2_grpc
from hwsparse.target import load_target
from tests.example_artifact import MODEL_DIGEST, example_artifact
from tests.serve.conftest import TARGETS, StartServer
from tests.serve.fake_worker import REPORT, front

UploadModel = Callable[[str], str]
DENSE = parse_choice("dense")


@pytest.fixture
def dataset(client: Client, tmp_path: Path) -> str:
    path = tmp_path / "files.npz"
    path.write_bytes(b"arrays")
    return client.upload_dataset(path)


def test_targets_are_listed_and_found(client: Client) -> None:
    assert client.targets() == tuple(sorted(TARGETS, key=lambda target: target.name))
    assert client.target("tiny") == TARGETS[0]
    with pytest.raises(UnknownNameError, match="no target 'huge' on this server; it has small, tiny"):
        client.target("huge")


def test_from_a_model_to_an_artifact(client: Client, upload: UploadModel, dataset: str, tmp_path: Path) -> None:
    handle = client.optimize(upload("good"), "tiny", dataset, Budget(3, min_quality=0.5), seed=7)
    seen = list(handle.watch())
    assert seen[-1].state is OperationState.SUCCEEDED
    assert seen[-1].progress.front == front(3)
    result = handle.result()
    assert result.front == handle.front() == front(3)
    assert handle.report() == client.report(handle.name) == REPORT.text
    (digest,) = result.artifacts
    steps: list[tuple[int, int]] = []
    artifact = client.download(digest, tmp_path / "out" / "artifact", lambda *step: steps.append(step))
    assert artifact == Artifact.load(tmp_path / "out" / "artifact")
    assert artifact.digest == digest
    assert client.manifest(digest) == artifact.manifest
    assert [summary.digest for summary in client.artifacts()] == [digest]
    size = len(b"".join(pack(artifact)))
    assert steps[-1] == (size, size)
    assert [operation.name for operation in client.operations()] == [handle.name]
    assert client.operation(handle.name).get() == seen[-1]


def test_a_plan_is_compiled(client: Client, upload: UploadModel, dataset: str, tmp_path: Path) -> None:
    plan = Plan.of(MODEL_DIGEST, {"conv": parse_choice("block4x1@0.9")})
    shapes = {"x": (1, 3, 8, 8)}
    handle = client.compile(upload("good"), "tiny", plan, dataset=dataset, shapes=shapes)
    assert len(handle.result().artifacts) == 1
    with pytest.raises(UnsupportedError, match=f"operation '{handle.name}' has no report: it was no search"):
        handle.report()


def test_a_file_is_sent_once(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "net (v2).onnx"
    path.write_bytes(bytes(3 << 20))
    steps: list[tuple[int, int]] = []
    digest = client.upload_model(path, lambda *step: steps.append(step))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert steps[-1] == (3 << 20, 3 << 20)
    assert client.upload_model(path) == digest
    (kept,) = (tmp_path / "state" / "models" / digest).iterdir()
    assert kept.name == "net__v2_.onnx"


def test_a_job_s_failure_is_raised_as_what_it_is(client: Client, upload: UploadModel) -> None:
    with pytest.raises(ModelError, match="node 'x': an operator that nobody knows"):
        client.compile(upload("refuse"), "tiny", DENSE).result()
    with pytest.raises(ServiceError, match="was killed by SIGSEGV"):
        client.compile(upload("crash"), "tiny", DENSE).result()


def test_a_job_is_cancelled(client: Client, upload: UploadModel) -> None:
    handle = client.compile(upload("wait"), "tiny", DENSE)
    for operation in handle.watch():
        if operation.progress.stage == "waiting":
            handle.cancel()
    assert operation.state is OperationState.CANCELLED
    with pytest.raises(Cancelled, match="cancelled on request"):
        handle.result()
    assert handle.front() == front(1)


def test_names_that_nothing_has_are_said_so(client: Client, upload: UploadModel, dataset: str) -> None:
    model, nothing, budget = upload("good"), "0" * 64, Budget(1)
    for call, said in (
        (lambda: client.compile(nothing, "tiny", DENSE), "no model '000.* upload it first"),
        (lambda: client.compile(model, "huge", DENSE), "no target 'huge'"),
        (lambda: client.compile(model, "../tiny", DENSE), "no target"),
        (lambda: client.compile(model, "tiny", DENSE, dataset=nothing), "no data set '000"),
        (lambda: client.optimize(model, "tiny", "", budget), "no data set ''"),
        (lambda: client.get("nobody"), "no operation 'nobody'"),
        (lambda: client.cancel("nobody"), "no operation 'nobody'"),
        (lambda: client.front("nobody"), "no operation 'nobody'"),
        (lambda: client.report("nobody"), "no operation 'nobody'"),
        (lambda: list(client.watch("nobody")), "no operation 'nobody'"),
        (lambda: client.manifest(nothing), "no artifact '000"),
        (lambda: client.manifest("../../etc"), "no artifact"),
    ):
        with pytest.raises(UnknownNameError, match=said):
            call()


def test_requests_that_make_no_sense_are_refused(client: Client, upload: UploadModel, dataset: str) -> None:
    model = upload("late-crash")
    for call, said in (
        (lambda: client.optimize(model, "tiny", dataset, Budget(1), seed=-1), "the request cannot be sent"),
        (lambda: client.compile(model, "tiny", DENSE, shapes={"x": (0,)}), "sizes of at least 1"),
        (lambda: client.compile(model, "tiny", DENSE, request_id="x" * 101), "at most 100 characters"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    client.compile(model, "tiny", DENSE, request_id="one")
    with pytest.raises(InputError, match="the request id 'one' was used for another request"):
        client.compile(model, "tiny", DENSE, seed=1, request_id="one")


def test_what_a_file_lacks_is_said_before_it_is_sent(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InputError, match="empty is empty"):
        client.upload_model(tmp_path / "empty.onnx")
    with pytest.raises(InputError, match=r"none\.onnx: No such file"):
        client.upload_model(tmp_path / "none.onnx")


def test_too_large_a_file_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(bytes(5 << 20))
    with Client(start_server(max_upload_bytes=1 << 20).address) as client:
        for send in (client.upload_model, client.upload_dataset):
            with pytest.raises(InputError, match="5242880 bytes; this server takes at most 1048576"):
                send(tmp_path / "large.onnx")


def test_a_file_that_changes_while_it_is_sent_is_refused(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwsparse.serve import client as module

    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    announced = module.announce(path)
    path.write_bytes(b"behind")
    monkeypatch.setattr(module, "announce", lambda _: announced)
    with pytest.raises(InputError, match=r"m: its sha256 is .*, not the one announced"):
        client.upload_model(path)


def test_many_operations_and_artifacts_are_listed_over_pages(
    client: Client, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upload: UploadModel
) -> None:
    from hwsparse.serve import services
    from hwsparse.store import ArtifactStore

    monkeypatch.setattr(services, "USUAL_PAGE", 2)
    store = ArtifactStore(tmp_path / "state" / "artifacts")
    digests = sorted(store.put(example_artifact(tmp_path / f"a{n}", f"a{n}")) for n in range(5))
    assert [summary.digest for summary in client.artifacts()] == digests
    model = upload("late-crash")
    names = [client.compile(model, "tiny", DENSE, seed=n).name for n in range(5)]
    assert [operation.name for operation in client.operations()] == names[::-1]


def test_a_damaged_artifact_hides_no_other(client: Client, tmp_path: Path) -> None:
    from hwsparse.store import ArtifactStore

    store = ArtifactStore(tmp_path / "state" / "artifacts")
    good, bad = (store.put(example_artifact(tmp_path / name, name)) for name in ("good", "bad"))
    path = tmp_path / "state" / "artifacts" / f"{bad}.tar"
    path.write_bytes(path.read_bytes().replace(b"magika", b"magikb").replace(b"library.so", b"library.sp"))
    assert [summary.digest for summary in client.artifacts()] == [good]
    with pytest.raises(ServiceError, match="the server failed at this request"):
        client.manifest(bad)
    with pytest.raises(ArtifactError):
        client.download(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1"])
def test_a_server_that_is_not_there_is_one_clear_error(address: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    with Client(address, timeout_s=10) as client:
        for call in (
            client.targets,
            lambda: client.upload_model(tmp_path / "m.onnx"),
            lambda: list(client.watch("x")),
            lambda: client.download("0" * 64, tmp_path / "out"),
        ):
            with pytest.raises(ServiceError) as caught:
                call()
            assert f"the server at {address} cannot be reached" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_server_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout_s=0.2) as client, pytest.raises(ServiceError, match=address):
            client.targets()


class LyingArtifacts(artifacts_pb2_grpc.ArtifactServiceServicer):
    """Answers every download with `parts` and every manifest with `text`."""

    parts: list[artifacts_pb2.DownloadArtifactResponse]
    text = ""

    def ListArtifacts(  # noqa: N802
        self, request: artifacts_pb2.ListArtifactsRequest, context: grpc.ServicerContext
    ) -> artifacts_pb2.ListArtifactsResponse:
        raise NotImplementedError

    def GetManifest(  # noqa: N802
        self, request: artifacts_pb2.GetManifestRequest, context: grpc.ServicerContext
    ) -> artifacts_pb2.GetManifestResponse:
        return artifacts_pb2.GetManifestResponse(manifest_json=self.text)

    def DownloadArtifact(  # noqa: N802
        self, request: artifacts_pb2.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifacts_pb2.DownloadArtifactResponse]:
        yield from self.parts


@pytest.fixture
def lying() -> Iterator[tuple[LyingArtifacts, Client]]:
    servicer = LyingArtifacts()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Client(f"127.0.0.1:{port}") as client:
            yield servicer, client
        server.stop(None).wait()


def parts_of(content: bytes, *, size: int | None = None, sha256: str | None = None) -> list[bytes]:
    """A download of `content` as serialized messages: header, two chunks, trailer."""
    response = artifacts_pb2.DownloadArtifactResponse
    half = len(content) // 2
    header = artifacts_pb2.DownloadArtifactHeader(size_bytes=len(content) if size is None else size)
    trailer = artifacts_pb2.DownloadArtifactTrailer(sha256=sha256 or hashlib.sha256(content).hexdigest())
    return [
        message.SerializeToString()
        for message in (
            response(header=header),
            response(chunk=content[:half]),
            response(chunk=content[half:]),
            response(trailer=trailer),
        )
    ]


def test_a_download_is_whole_and_right_or_nothing(lying: tuple[LyingArtifacts, Client], tmp_path: Path) -> None:
    servicer, client = lying
    artifact = example_artifact(tmp_path / "artifact")
    other = example_artifact(tmp_path / "other", "other")
    content = b"".join(pack(artifact))
    whole = parts_of(content)
    cases = {
        "cut off": [whole[:n] for n in (1, 2, 3)] + [parts_of(content, size=1)],
        "does not begin with a header": [whole[1:]],
        "goes on after its end": [whole + whole[1:2], whole[:1] + whole],
        "changed on its way": [parts_of(content, sha256="0" * 64)],
        "the archive ends too early": [parts_of(content[:-1]), parts_of(content[: len(content) // 2])],
        "the archive goes on": [parts_of(content + b"x")],
        "holds the artifact": [parts_of(b"".join(pack(other)))],
        "begin with a manifest": [parts_of(b"x" * 4096)],
    }
    for said, streams in cases.items():
        for stream in streams:
            servicer.parts = [artifacts_pb2.DownloadArtifactResponse.FromString(part) for part in stream]
            with pytest.raises(ArtifactError) as caught:
                client.download(artifact.digest, tmp_path / "out")
            assert said in str(caught.value) or "cut off" in str(caught.value), (said, caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "other"]
    servicer.parts = [artifacts_pb2.DownloadArtifactResponse.FromString(part) for part in whole]
    assert client.download(artifact.digest, tmp_path / "out").manifest == artifact.manifest


def test_a_manifest_is_verified(lying: tuple[LyingArtifacts, Client], tmp_path: Path) -> None:
    servicer, client = lying
    manifest = example_artifact(tmp_path / "artifact").manifest
    servicer.text = manifest.text
    assert client.manifest(manifest.digest) == manifest
    with pytest.raises(ArtifactError, match="sent the manifest of"):
        client.manifest("0" * 64)
    servicer.text = manifest.text.replace("magika", "magikb")
    with pytest.raises(ArtifactError, match="changed since it was written"):
        client.manifest(manifest.digest)


def test_nothing_that_is_there_is_replaced_by_a_download(client: Client, upload: UploadModel, tmp_path: Path) -> None:
    (digest,) = client.compile(upload("good"), "tiny", DENSE).result().artifacts
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ArtifactError, match="something is there already"):
        client.download(digest, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_a_client_of_a_foreign_server_is_told(lying: tuple[LyingArtifacts, Client]) -> None:
    with pytest.raises(ServiceError, match="does not know this request; is it another version"):
        lying[1].targets()


def test_what_a_target_cannot_do_is_said_when_it_is_asked_for(
    client: Client, upload: UploadModel, dataset: str
) -> None:
    model = upload("good")
    with pytest.raises(UnsupportedError, match="target tiny cannot run unstructured in float32"):
        client.compile(model, "tiny", parse_choice("unstructured@0.9"))
    plan = Plan.of(MODEL_DIGEST, {"a": parse_choice("2:4"), "b": parse_choice("channel@0.5")})
    with pytest.raises(UnsupportedError, match="target tiny cannot run channel"):
        client.compile(model, "tiny", plan)
    with pytest.raises(UnsupportedError, match="target small is timed by the runner 'cuda'"):
        client.optimize(model, "small", dataset, Budget(1))
    with pytest.raises(UnsupportedError, match="target small is timed by the runner 'cuda'"):
        client.compile(model, "small", DENSE)
    assert list(client.operations()) == []


def test_threads_are_those_asked_for(client: Client, upload: UploadModel, dataset: str, tmp_path: Path) -> None:
    model = upload("late-crash")
    for threads, told in ((0, None), (1, 1)):
        for handle in (
            client.compile(model, "tiny", DENSE, threads=threads),
            client.optimize(model, "tiny", dataset, Budget(1), threads=threads),
        ):
            assert read_request(tmp_path / "state" / "jobs" / handle.name).threads == told
    for refused in (
        lambda: client.compile(model, "tiny", DENSE, threads=3),
        lambda: client.optimize(model, "tiny", dataset, Budget(1), threads=3),
    ):
        with pytest.raises(InputError, match="target tiny has 2 cores; 3 threads cannot be used"):
            refused()


def test_what_is_for_a_device_that_is_not_here_goes_by_estimates(start_server: StartServer, tmp_path: Path) -> None:
    phone = load_target("arm-cortex-a76")
    unknown = replace(phone, name="unknown-board", core=None)  # nothing to estimate its times from
    with Client(start_server(targets=(phone, unknown)).address) as client:
        (tmp_path / "late-crash.onnx").write_bytes(b"model")
        (tmp_path / "data.npz").write_bytes(b"arrays")
        model, dataset = client.upload_model(tmp_path / "late-crash.onnx"), client.upload_dataset(tmp_path / "data.npz")

        def asked(target: str) -> Iterator[Callable[[], OperationHandle]]:
            yield lambda: client.optimize(model, target, dataset, Budget(1))
            yield lambda: client.compile(model, target, DENSE)

        for ask in asked(phone.name):
            assert read_request(tmp_path / "state" / "jobs" / ask().name).target == phone.name
        for ask in asked(unknown.name):
            with pytest.raises(UnsupportedError, match="target unknown-board is timed on a board"):
                ask()


def test_types_are_those_asked_for(start_server: StartServer, tmp_path: Path) -> None:
    of_bytes = replace(TARGETS[0], supported=(*TARGETS[0].supported, ("dense", "int8")))
    with Client(start_server(targets=(of_bytes,)).address) as client:
        (tmp_path / "late-crash.onnx").write_bytes(b"model")
        (tmp_path / "data.npz").write_bytes(b"arrays")
        model, dataset = client.upload_model(tmp_path / "late-crash.onnx"), client.upload_dataset(tmp_path / "data.npz")
        for asked, told in (
            ({}, ("float32",)),
            ({"dtypes": ()}, ("float32",)),  # as a client asks that knows of no types
            ({"dtypes": ("float32", "int8", "int8")}, ("float32", "int8")),
            ({"dtypes": ("int8",)}, ("int8",)),
        ):
            handle = client.optimize(model, "tiny", dataset, Budget(1), **asked)
            assert read_request(tmp_path / "state" / "jobs" / handle.name).dtypes == told
        for refused in ("float16", "x" * 1000):
            with pytest.raises(UnsupportedError, match=f"target tiny supports nothing in {refused[:80]}$"):
                client.optimize(model, "tiny", dataset, Budget(1), dtypes=("int8", refused))
        assert len(list(client.operations())) == 4


def test_ranges_are_found_as_asked(start_server: StartServer, tmp_path: Path) -> None:
    of_bytes = replace(TARGETS[0], supported=(*TARGETS[0].supported, ("dense", "int8")))
    with Client(start_server(targets=(of_bytes,)).address) as client:
        (tmp_path / "late-crash.onnx").write_bytes(b"model")
        (tmp_path / "data.npz").write_bytes(b"arrays")
        model, dataset = client.upload_model(tmp_path / "late-crash.onnx"), client.upload_dataset(tmp_path / "data.npz")
        search = partial(client.optimize, model, "tiny", dataset, Budget(1))
        build = partial(client.compile, model, "tiny", Choice(dtype="int8"), dataset=dataset)
        for ask in (partial(search, dtypes=("int8",)), build):
            for asked, told in (({}, "minmax"), ({"ranges": ""}, "minmax"), ({"ranges": "mse"}, "mse")):
                handle = ask(**asked)
                assert read_request(tmp_path / "state" / "jobs" / handle.name).ranges == told
            with pytest.raises(InputError, match="ranges: 'best' is no way to find them"):
                ask(ranges="best")
        for floats in (search, partial(client.compile, model, "tiny", DENSE, dataset=dataset)):
            with pytest.raises(InputError, match="no layer is to be int8; ask for both"):
                floats(ranges="mse")
