"""Errors and gRPC status codes: the one table between them, both ways, with `google.rpc` details. No I/O."""

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
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
)

STATUS: Mapping[type[LookalikeError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an exception, whoever raised it."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    return STATUS.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]  # .get takes any type


def to_error(error: grpc.RpcError) -> LookalikeError:
    """What the peer raised, as its own caller should see it: `rich_status` undone, details and all."""
    code, message = error.code(), error.details() or ""
    details = _details_of(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        _unpack_first(details, bad)
        violation = next(iter(bad.field_violations), None)
        return InvalidRequest(violation.field, violation.description) if violation else InvalidRequest("", message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = error_details_pb2.RetryInfo()
        told = _unpack_first(details, retry)
        return Overloaded(message, retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if told else 0.1)
    kind = next((kind for kind, its_code in STATUS.items() if its_code is code), None)
    return ServiceError(f"{code.name}: {message}") if kind is None else kind(message)


def _details_of(error: grpc.RpcError) -> Sequence[any_pb2.Any]:
    trailer: Any = error.trailing_metadata() or ()  # Pairs; typed as a single one.
    for key, value in trailer:
        if key == "grpc-status-details-bin":
            try:
                return tuple(status_pb2.Status.FromString(value).details)
            except DecodeError:  # Whoever is at the other end: its code and message still stand.
                return ()
    return ()


def _unpack_first(details: Sequence[any_pb2.Any], into: Message) -> bool:
    return any(detail.TypeName() == into.DESCRIPTOR.full_name and detail.Unpack(into) for detail in details)


def rich_status(error: LookalikeError) -> status_pb2.Status:
    """google.rpc.Status with the details a client can act on."""
    details: list[Message] = []
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_of(error).value[0], message=str(error), details=packed)
