"""Every error that Lookalike raises on purpose, in one tree; the type says who can fix it. Pure.

LookalikeError
├── CallerError                 the caller can fix it
│   ├── InvalidRequest          a field of the request is malformed                 INVALID_ARGUMENT
│   ├── Unauthenticated         no valid API key or certificate                     UNAUTHENTICATED
│   ├── PermissionDenied        the caller may not do this                          PERMISSION_DENIED
│   ├── NotFound                no such product, or it has no such vector           NOT_FOUND
│   └── FailedPrecondition      the server lacks the space or version               FAILED_PRECONDITION
├── ServiceError                the service failed; all but the last may pass by retrying
│   ├── Overloaded              a limit of the server was reached                   RESOURCE_EXHAUSTED
│   ├── DeadlineExceeded        the caller's deadline passed                        DEADLINE_EXCEEDED
│   ├── Unavailable             a server that the request needs is unreachable      UNAVAILABLE
│   └── InternalError           a process that the request needs has a bug          INTERNAL
└── OperatorError               whoever runs the command can fix it                 exit status 2
    ├── BadSettings             an unknown setting, or a value that is not allowed
    ├── BadArtifact             a file is missing, damaged or of another kind
    └── BadCatalogue            a catalogue that cannot be read

`lookalike.status` maps these types to gRPC status codes. Any other exception is a bug: INTERNAL.
"""

from __future__ import annotations

from typing import Self


class LookalikeError(Exception):
    """The base of all errors. Its message tells a person what to do.

    public: the message for callers of a server, where the whole one has what only operators may know: addresses, paths,
            words of libraries and of other systems. "": the message has nothing of that kind.
    """

    public = ""

    def hidden_as(self, public: str) -> Self:
        """This error, of which a server tells its callers no more than `public`; its log has the whole message."""
        if public != str(self):
            self.public = public
        return self

    request_id = ""  # By which the server's logs name the call that failed; empty: it did not say.

    delay_s = 0.0  # After which a server says so: of callers that try again and again, too soon.


class CallerError(LookalikeError):
    """The request cannot succeed as it is."""


class InvalidRequest(CallerError):
    """A field of the request is malformed. `field` is its path in the message, `reason` what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Unauthenticated(CallerError):
    """The call has no API key or certificate that the server knows. It does not say which of the two, or why."""

    def __init__(self, message: str, *, delay_s: float = 0.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class PermissionDenied(CallerError):
    """The caller is known, and may not do this."""


class NotFound(CallerError):
    """The product does not exist, or has no vector in the space."""


class FailedPrecondition(CallerError):
    """The server does not have the space or version that the request needs, or an encoder does not match the index."""


class ServiceError(LookalikeError):
    """The service failed, not the caller."""


class Overloaded(ServiceError):
    """The server refused the request because a limit was reached. Retry after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 0.1, delay_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.delay_s = delay_s


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed before the answer was ready."""


class Unavailable(ServiceError):
    """A server, store or encoder that the request needs cannot be reached.

    retry_after_s: when to retry; None: nobody knows.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InternalError(ServiceError):
    """A bug in a process that the request needs: its log has it, and the same request is likely to meet it again."""


class OperatorError(LookalikeError):
    """Whoever runs the command has to change something: a setting, a file, the machine."""


class BadSettings(OperatorError):
    """A setting is unknown, or its value is not allowed."""


class BadArtifact(OperatorError):
    """A file of an index or a model is missing, damaged or of another kind."""


class BadCatalogue(OperatorError):
    """The catalogue cannot be read."""


def public_message(error: LookalikeError) -> str:
    """What callers of a server are told of an error."""
    return error.public or str(error)
