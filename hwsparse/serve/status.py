"""Errors of the house to gRPC status, and back: the only place that pairs them.

Knows no method of the service.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from hwsparse import errors
from hwsparse.errors import (
    Cancelled,
    FullError,
    HwsparseError,
    InputError,
    ServiceError,
    UnknownNameError,
    UnsupportedError,
)
from hwsparse.serve.jobfiles import one_line
from hwsparse.serve.operation import JobError

_log = logging.getLogger(__name__)

# The first that fits, so subclasses stand before their bases.
_CODES: tuple[tuple[type[HwsparseError], grpc.StatusCode], ...] = (
    (UnknownNameError, grpc.StatusCode.NOT_FOUND),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnsupportedError, grpc.StatusCode.FAILED_PRECONDITION),
    (FullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ServiceError, grpc.StatusCode.UNAVAILABLE),
    (Cancelled, grpc.StatusCode.CANCELLED),
)


class StatusInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Ends a call whose method raised with the status that belongs to the error."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        coders = (handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming and handler.response_streaming and handler.stream_stream:
            many = _guarded_stream(handler.stream_stream, method)
            return grpc.stream_stream_rpc_method_handler(many, *coders)
        if handler.request_streaming and handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(_guarded(handler.stream_unary, method), *coders)
        if handler.response_streaming and handler.unary_stream:
            many = _guarded_stream(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(many, *coders)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, method), *coders)
        return handler


def _guarded(behavior: Callable[..., Any], method: str) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behavior(request, context)
        except Exception as error:
            _abort(context, method, error)

    return call


def _guarded_stream(behavior: Callable[..., Iterator[Any]], method: str) -> Callable[..., Iterator[Any]]:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from behavior(request, context)
        except Exception as error:
            _abort(context, method, error)

    return call


def _abort(context: grpc.ServicerContext, method: str, error: Exception) -> NoReturn:
    if isinstance(error, grpc.RpcError):  # gRPC's own, for a caller that has gone
        raise error
    for kind, code in _CODES:
        if isinstance(error, kind):
            context.abort(code, one_line(str(error)))
    _log.error("%s failed", method, exc_info=error)
    context.abort(grpc.StatusCode.INTERNAL, "the server failed at this request; its log has the reason")


def received(error: grpc.RpcError, address: str) -> HwsparseError:
    """The error to raise at the caller's end for a call that failed."""
    code, details = grpc.StatusCode.UNKNOWN, str(error)
    if isinstance(error, grpc.Call):
        code, details = error.code(), one_line(error.details() or "")
    if code is grpc.StatusCode.CANCELLED and details == code.name:  # by gRPC, without an error of the house
        return ServiceError(f"the server at {address} ended the call: nothing was sent for too long, or it is stopping")
    for kind, known in _CODES:
        if code is known and not issubclass(kind, ServiceError):
            return kind(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceError(f"the server at {address} cannot be reached or is not ready: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return FullError(f"the server at {address} takes no more now: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError(f"the server at {address} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ServiceError(f"the server at {address} does not know this request; is it another version?")
    return ServiceError(f"the server at {address} failed ({code.name}): {details}")


def raised_by_job(error: JobError) -> HwsparseError:
    """The error that a job ended with, as the type it had in its worker."""
    kind = getattr(errors, error.kind, None)
    if isinstance(kind, type) and issubclass(kind, HwsparseError):
        return kind(error.message)
    return ServiceError(error.message)
