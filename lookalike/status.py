"""Convert errors to gRPC status codes and back, with `google.rpc` details. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from lookalike.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
    public_message,
)
from lookalike.tls_failures import explained
from lookalike.v1.types_pb2 import RequestError

STATUS: Mapping[type[LookalikeError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    InternalError: grpc.StatusCode.INTERNAL,
}

Trailer = tuple[tuple[str, str | bytes], ...]


# What a caller learns of a bug; the rest is in the log.
INTERNAL_MESSAGE = "internal error; see the server's log"


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of any exception: INTERNAL if neither its type nor one that this derives from is in the table."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    return next((STATUS[each] for each in type(error).__mro__ if each in STATUS), grpc.StatusCode.INTERNAL)


def is_stated(error: BaseException) -> bool:
    """Whether an error is one that callers are told of, in its own words; any other is a bug, or an operator's."""
    return any(isinstance(error, each) for each in STATUS)


def retry_delay_s(error: BaseException) -> float | None:
    """When to retry after an error; None: it does not say."""
    return error.retry_after_s if isinstance(error, Overloaded | Unavailable) else None


def to_error(error: grpc.RpcError) -> LookalikeError:
    """The LookalikeError that the server raised, with its details: the reverse of `rich_status`."""
    details, request = _details_of(error), error_details_pb2.RequestInfo()
    raised = _to_error(error.code(), explained(error.details() or ""), details)
    if _unpack_first(details, request):
        raised.request_id = request.request_id
    return raised


def _to_error(code: grpc.StatusCode, message: str, details: Sequence[any_pb2.Any]) -> LookalikeError:
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        _unpack_first(details, bad)
        violation = next(iter(bad.field_violations), None)
        return InvalidRequest(violation.field, violation.description) if violation else InvalidRequest("", message)
    retry = error_details_pb2.RetryInfo()
    has_delay = _unpack_first(details, retry)
    return _error_of_code(code, message, retry.retry_delay.ToTimedelta().total_seconds() if has_delay else None)


def to_request_error(error: LookalikeError) -> RequestError:
    """The error of one search in a batch: what `rich_status` says, without the details' envelopes."""
    code = code_of(error).value[0]
    if isinstance(error, InvalidRequest):
        return RequestError(code=code, message=error.reason, field=error.field)
    return RequestError(code=code, message=public_message(error), retry_after_s=retry_delay_s(error) or 0.0)


def from_request_error(error: RequestError) -> LookalikeError:
    """The LookalikeError that one search of a batch ended with: the reverse of `to_request_error`."""
    code = next((code for code in grpc.StatusCode if code.value[0] == error.code), grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest(error.field, error.message)
    return _error_of_code(code, error.message, error.retry_after_s or None)


def _error_of_code(code: grpc.StatusCode, message: str, retry_after_s: float | None) -> LookalikeError:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(message) if retry_after_s is None else Overloaded(message, retry_after_s=retry_after_s)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(message, retry_after_s=retry_after_s)
    error_type = next((candidate for candidate, its_code in STATUS.items() if its_code is code), None)
    return ServiceError(f"{code.name}: {message}") if error_type is None else error_type(message)


def _details_of(error: grpc.RpcError) -> Sequence[any_pb2.Any]:
    trailer: Any = error.trailing_metadata() or ()  # A sequence of pairs, but typed as a single pair.
    for key, value in trailer:
        if key == "grpc-status-details-bin":
            try:
                return tuple(status_pb2.Status.FromString(value).details)
            except DecodeError:  # Not one of our servers: its code and message are still useful.
                return ()
    return ()


def _unpack_first(details: Sequence[any_pb2.Any], target: Message) -> bool:
    """Unpack the first detail of the message type of `target` into `target`. Returns whether there is one."""
    return any(detail.TypeName() == target.DESCRIPTOR.full_name and detail.Unpack(target) for detail in details)


def rich_status(error: LookalikeError, request_id: str = "") -> status_pb2.Status:
    """The google.rpc.Status of an error, with details that a client can act on: the field, or the retry delay.

    request_id: by which logs name the call; empty: it is not said.
    """
    details: list[Message] = []
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if (retry_after_s := retry_delay_s(error)) is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    # As Any.Pack does, in half the time.
    packed = [
        any_pb2.Any(type_url=f"type.googleapis.com/{each.DESCRIPTOR.full_name}", value=each.SerializeToString())
        for each in details
    ]
    return status_pb2.Status(code=code_of(error).value[0], message=public_message(error), details=packed)


def trailer_of(error: LookalikeError, request_id: str = "") -> Trailer:
    """The trailing metadata that report an error: its details."""
    status = rich_status(error, request_id)
    return (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()
