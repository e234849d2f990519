from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from hwsparse import errors
from hwsparse.errors import (
    ArtifactError,
    Cancelled,
    CompileError,
    FullError,
    HwsparseError,
    InputError,
    PlanError,
    ServiceError,
    UnknownNameError,
    UnsupportedError,
)
from hwsparse.serve.operation import JobError
from hwsparse.serve.status import StatusInterceptor, raised_by_job, received

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Raises(grpc.GenericRpcHandler):
    """Every method raises `error`; streams do so after one answer."""

    error: Exception = ServiceError("unset")

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        kind = details.method.rpartition("/")[2]
        if kind not in KINDS:
            return None

        def one(request: object, context: grpc.ServicerContext) -> bytes:
            raise self.error

        def many(request: object, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield b"first"
            raise self.error

        behavior = many if kind.endswith("stream") else one
        return getattr(grpc, f"{kind}_rpc_method_handler")(behavior)


@pytest.fixture(scope="module")
def raising() -> Iterator[tuple[Raises, grpc.Channel]]:
    handler = Raises()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[handler], interceptors=[StatusInterceptor()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            yield handler, channel
        server.stop(None).wait()


def call(channel: grpc.Channel, kind: str) -> None:
    request = iter([b""]) if kind.startswith("stream") else b""
    answer = getattr(channel, kind)(f"/test/{kind}")(request, timeout=10)
    if kind.endswith("stream"):
        assert next(answer) == b"first"
        next(answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad\nrequest"), grpc.StatusCode.INVALID_ARGUMENT),
        (PlanError("bad\nrequest"), grpc.StatusCode.INVALID_ARGUMENT),
        (UnknownNameError("bad\nrequest"), grpc.StatusCode.NOT_FOUND),
        (UnsupportedError("bad\nrequest"), grpc.StatusCode.FAILED_PRECONDITION),
        (ServiceError("bad\nrequest"), grpc.StatusCode.UNAVAILABLE),
        (FullError("bad\nrequest"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Cancelled("bad\nrequest"), grpc.StatusCode.CANCELLED),
    ],
)
def test_an_error_of_ours_has_its_status(
    raising: tuple[Raises, grpc.Channel], kind: str, error: HwsparseError, code: grpc.StatusCode
) -> None:
    handler, channel = raising
    handler.error = error
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, kind)
    assert (caught.value.code(), caught.value.details()) == (code, "bad request")
    again = received(caught.value, "here:1")
    assert isinstance(error, type(again))
    assert "bad request" in str(again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError("secret"), ArtifactError("secret"), OSError(28, "secret")])
def test_anything_else_is_logged_and_not_told(
    raising: tuple[Raises, grpc.Channel], caplog: pytest.LogCaptureFixture, kind: str, error: Exception
) -> None:
    handler, channel = raising
    handler.error = error
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.RpcError) as caught:
        call(channel, kind)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert "secret" in caplog.text
    again = received(caught.value, "here:1")
    assert type(again) is ServiceError
    assert "here:1" in str(again)


def test_an_unknown_method_is_said_so(raising: tuple[Raises, grpc.Channel]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raising[1].unary_unary("/test/nothing")(b"", timeout=10)
    assert "is it another version?" in str(received(caught.value, "here:1"))


def test_a_job_s_error_keeps_its_type() -> None:
    for kind in (PlanError, UnsupportedError, CompileError, Cancelled):
        again = raised_by_job(JobError(kind.__name__, "why"))
        assert type(again) is kind
        assert str(again) == "why"
    for name in ("InternalError", "annotations", "__name__", ""):
        assert type(raised_by_job(JobError(name, "why"))) is ServiceError


def test_every_error_type_has_a_status_or_is_kept_inside() -> None:
    inside = {"HwsparseError", "CompileError", "StorageError", "MeasureError", "NoRoomError", "StudyError",
              "ArtifactError", "TuningError", "ExecutionError"}  # fmt: skip
    told = (InputError, UnsupportedError, ServiceError, Cancelled)
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, HwsparseError):
            assert issubclass(kind, told) or name in inside, f"{name} needs a status"
