"""Which status code an error has, what a peer's code becomes, and that both tell a client whether to retry."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from encoders.image.client import WrongInputSize
from lookalike.errors import (
    BadSettings,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import error_of_peer
from lookalike.runtime.methods import status_of
from lookalike.status import INTERNAL_MESSAGE, code_of, from_request_error, to_request_error

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("limit", "is 0"), Code.INVALID_ARGUMENT),
        (NotFound("no product a"), Code.NOT_FOUND),
        (FailedPrecondition("no image encoder is set"), Code.FAILED_PRECONDITION),
        (Overloaded("full"), Code.RESOURCE_EXHAUSTED),
        (DeadlineExceeded("late"), Code.DEADLINE_EXCEEDED),
        (Unavailable("away"), Code.UNAVAILABLE),
        (WrongInputSize("another size"), Code.UNAVAILABLE),  # As the type that it derives from.
        (InternalError("shard 1: a bug"), Code.INTERNAL),
        (BadSettings("of the server"), Code.INTERNAL),
        (ZeroDivisionError(), Code.INTERNAL),
        (asyncio.CancelledError(), Code.CANCELLED),
    ],
    ids=lambda each: each.name if isinstance(each, Code) else type(each).__name__,
)
def test_an_error_has_the_code_of_its_type(error: BaseException, code: grpc.StatusCode) -> None:
    assert code_of(error) is code
    if isinstance(error, Exception):
        assert status_of(error)[0] is code


@pytest.mark.parametrize("error", [BadSettings("redis url: secret"), ZeroDivisionError("secret")])
def test_what_callers_are_not_to_know_stays_in_the_log(error: Exception) -> None:
    assert status_of(error) == (Code.INTERNAL, INTERNAL_MESSAGE, ())


@pytest.mark.parametrize(
    ("code", "details", "error_type"),
    [
        (Code.INTERNAL, INTERNAL_MESSAGE, InternalError),
        (Code.UNKNOWN, "KeyError", InternalError),
        (Code.DATA_LOSS, "", InternalError),
        (Code.INVALID_ARGUMENT, "queries: is empty", InternalError),
        (Code.UNIMPLEMENTED, "Method not found!", InternalError),
        (Code.UNKNOWN, "Stream removed", Unavailable),
        (Code.INTERNAL, "Received RST_STREAM with error code 2", Unavailable),
        (Code.UNAVAILABLE, "Socket closed", Unavailable),
        (Code.CANCELLED, "the peer is stopping", Unavailable),
        (Code.ABORTED, "", Unavailable),
        (Code.RESOURCE_EXHAUSTED, "full", Overloaded),
        (Code.NOT_FOUND, "no product", NotFound),
        (Code.FAILED_PRECONDITION, "no such version", FailedPrecondition),
    ],
)
def test_what_a_peer_says_becomes_what_is_true_for_the_caller(
    code: grpc.StatusCode, details: str, error_type: type[LookalikeError]
) -> None:
    assert type(error_of_peer(code, details, "shard a:1")) is error_type


def test_a_late_peer_is_the_callers_deadline_only_where_that_has_passed() -> None:
    late = Code.DEADLINE_EXCEEDED
    assert type(error_of_peer(late, "", "shard a:1", Deadline.after(60))) is Unavailable
    assert type(error_of_peer(late, "", "shard a:1", Deadline.after(-1))) is DeadlineExceeded


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
def test_the_delay_that_a_peer_asks_for_is_passed_on(code: grpc.StatusCode) -> None:
    error = error_of_peer(code, "", "shard a:1", retry_after_s=2.5)
    assert isinstance(error, Unavailable | Overloaded)
    assert error.retry_after_s == 2.5


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=0.2504), Unavailable("away", retry_after_s=0.2504)])
def test_a_known_delay_is_in_the_details(error: LookalikeError) -> None:
    trailer = dict(status_of(error)[2])
    (packed,) = status_pb2.Status.FromString(bytes(trailer["grpc-status-details-bin"])).details  # type: ignore[arg-type]  # bytes
    retry = error_details_pb2.RetryInfo()
    assert packed.Unpack(retry)
    assert math.isclose(retry.retry_delay.ToTimedelta().total_seconds(), 0.2504)


def test_where_no_delay_is_known_none_is_said() -> None:
    assert status_of(Unavailable("away")) == (Code.UNAVAILABLE, "away", ())


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("full", retry_after_s=2.5),
        Unavailable("away", retry_after_s=2.5),
        Unavailable("away"),
        InternalError("a bug"),
        InvalidRequest("limit", "is 0"),
    ],
)
def test_an_error_in_a_batch_comes_back_as_it_was(error: LookalikeError) -> None:
    back = from_request_error(to_request_error(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
