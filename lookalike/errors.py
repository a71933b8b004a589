"""Everything that can go wrong, in one tree; the type says whose fault it is. Pure.

LookalikeError
├── CallerError            the caller can mend it
│   ├── InvalidRequest     a field of the request is malformed            INVALID_ARGUMENT
│   ├── NotFound           no such product, or it has no such vector      NOT_FOUND
│   └── FailedPrecondition         no such space or version here                  FAILED_PRECONDITION
├── ServiceError           the caller can try again
│   ├── Overloaded         a bound was reached                            RESOURCE_EXHAUSTED
│   ├── DeadlineExceeded       the caller's time is over                      DEADLINE_EXCEEDED
│   └── Unavailable        something this needs is out of reach           UNAVAILABLE
└── OperatorError          whoever runs the command can mend it           exit status 2
    ├── BadSettings        an unknown setting, or a value not allowed
    ├── BadArtifact        a file is missing, damaged or of another kind
    └── BadCatalogue       a catalogue that cannot be read

gRPC codes are given to these types in one place, `lookalike.rpc`. Whatever else is raised is a bug: INTERNAL.
"""


class LookalikeError(Exception):
    """Has a message that a person can act on."""


class CallerError(LookalikeError):
    pass


class InvalidRequest(CallerError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(CallerError):
    pass


class FailedPrecondition(CallerError):
    pass


class ServiceError(LookalikeError):
    pass


class Overloaded(ServiceError):
    def __init__(self, message: str, *, retry_after_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServiceError):
    pass


class Unavailable(ServiceError):
    pass


class OperatorError(LookalikeError):
    pass


class BadSettings(OperatorError):
    pass


class BadArtifact(OperatorError):
    pass


class BadCatalogue(OperatorError):
    pass
