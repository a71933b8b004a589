"""What a failed connection by TLS means, in words that tell what to change. Pure."""

from __future__ import annotations

# What gRPC says, and what to say before it. The first that fits; a server that refuses a certificate only hangs up.
_MEANINGS = (
    ("certificate has expired", "the server's certificate has expired"),
    ("certificate is not yet valid", "the server's certificate is not valid yet, or a clock is wrong"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not signed by the CA that is given (tls_ca)"),
    ("Hostname Verification Check failed", "the server's certificate is of another name: see tls_server_name"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS"),
    (
        "connections to all backends failing; last error: UNAVAILABLE",
        "the server hung up: it may want TLS, or refuse this certificate (tls_ca, tls_cert)",
    ),
)
_HANGING_UP = "Socket closed"


def explained(details: str) -> str:
    """The message of a status, preceded by what it means where TLS has failed."""
    for sign, meaning in _MEANINGS:
        if sign in details and (not sign.startswith("connections") or details.endswith(_HANGING_UP)):
            return f"{meaning}: {details}"
    return details
