"""Certificates of `lookalike certs dev`, as processes and callers are given them. No I/O."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lookalike.tls import Tls


def tls_of(certs: Path, role: str, **arguments: Any) -> Tls:
    """How a caller of this role calls servers whose certificates are in the same folder."""
    own = certs / role
    files = {"ca": f"{own}/ca.crt", "cert": f"{own}/tls.crt", "key": f"{own}/tls.key"}
    return Tls(**{**files, **arguments})


def settings_of(certs: Path, role: str) -> dict[str, Any]:
    """The settings of a process of this role that asks its callers for certificates, and calls others by TLS."""
    own = certs / role
    return {
        "tls_cert": f"{own}/tls.crt",
        "tls_key": f"{own}/tls.key",
        "tls_client_ca": f"{own}/ca.crt",
        "tls_ca": f"{own}/ca.crt",
    }


def flags_of(certs: Path | None, role: str) -> list[str]:
    """These settings as flags; none without a folder."""
    settings = settings_of(certs, role) if certs else {}
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
