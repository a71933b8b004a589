"""Certificates and keys in PEM files, which are read again when they change. I/O: files.

A file that changes to something unusable – half written, or a key of another certificate – is refused: what was read
before stays in use, and the log says why. Whoever rotates certificates may therefore write the files in any order.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import grpc

from lookalike.errors import BadSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0  # Between two looks whether the files have changed.

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Pems:
    """The content of PEM files at one time; None of those that are not given."""

    ca: bytes | None = None
    cert: bytes | None = None  # The process's own, followed by those that it is signed by.
    key: bytes | None = field(default=None, repr=False)

    @cached_property
    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Of a client. One object for all channels, so that those to one address share connections."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)

    def server_configuration(self) -> grpc.ServerCertificateConfiguration:
        """Of a server. ca: of the clients, which must show a certificate of it; None: they need not."""
        assert self.key is not None  # noqa: S101  # A server has both.
        assert self.cert is not None  # noqa: S101
        return grpc.ssl_server_certificate_configuration([(self.key, self.cert)], root_certificates=self.ca)


class PemFiles:
    """PEM files that belong together. Safe to share between threads.

    report: is told of each reading: what was read, or None, and why it is not used ("" where it is).
    Raises BadSettings where they cannot be used at first.
    """

    def __init__(
        self,
        *,
        ca: str = "",
        cert: str = "",
        key: str = "",
        clock: Callable[[], float] = monotonic,
        report: Callable[[Pems | None, str], None] | None = None,
    ) -> None:
        self.ca, self.cert, self.key = ca, cert, key
        self._clock = clock
        self._report = report or (lambda pems, reason: None)
        self._lock = threading.Lock()
        self._next_look_s = clock() + LOOK_S
        self._stamp = self._look()
        try:
            self._pems = self._read()
        except (OSError, ValueError) as error:
            raise BadSettings(f"TLS: {error}") from error
        self._report(self._pems, "")

    def current(self) -> Pems:
        """What is in use: another object after a change. Costs a look at the files, at most once a second."""
        if self._clock() >= self._next_look_s and self._lock.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._lock.release()
        return self._pems

    def _renew(self) -> None:
        self._next_look_s = self._clock() + LOOK_S
        if (stamp := self._look()) == self._stamp:
            return
        reason = ""
        try:
            pems = self._read()
        except (OSError, ValueError) as error:
            pems, reason = self._pems, str(error)
        if self._look() != stamp:
            return  # They are being written: the next look reads them.
        self._stamp = stamp
        if reason:
            log.error("TLS: what was read before stays in use: %s", reason)
        elif pems != self._pems:
            self._pems = pems
            log.info("TLS: read again: %s", ", ".join(self._paths()))
        self._report(None if reason else pems, reason)

    def _paths(self) -> list[str]:
        return [path for path in (self.ca, self.cert, self.key) if path]

    def _look(self) -> Stamp:
        stamps = []
        for path in self._paths():
            try:
                status = os.stat(path)
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)

    def _read(self) -> Pems:
        """Raises OSError and ValueError, which name the file."""
        pems = Pems(*(Path(path).read_bytes() if path else None for path in (self.ca, self.cert, self.key)))
        if self.ca:
            _check(self.ca, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca))
        if self.cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            what = f"{self.cert} with the key {self.key}"
            _check(what, lambda: context.load_cert_chain(self.cert, self.key or None, password=_no_password))
        return pems


def _check(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise ValueError(f"{what}: {error.reason or error}") from error
    except OSError as error:
        raise OSError(f"{what}: {error.strerror or error}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted; give it without a password, readable by this process only")


class _Context(ssl.SSLContext):
    """Checks the certificate against a name of its own, where it has one."""

    server_name = ""

    def wrap_socket(self, *arguments: Any, **keywords: Any) -> Any:
        if self.server_name:
            keywords["server_hostname"] = self.server_name
        return super().wrap_socket(*arguments, **keywords)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How a channel knows its servers, and shows who calls.

    ca:          the file of the CA certificates that the servers' are signed by; "": those that gRPC brings along.
    cert, key:   the files of the client's own certificate and key, for servers that ask for one (mTLS).
    server_name: the name that the servers' certificates must have; "": that of the address.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    report: Callable[[Pems | None, str], None] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, names: Mapping[str, str]) -> Tls:
        """The inverse of `names`."""
        return cls(**{each: names[each] for each in ("ca", "cert", "key", "server_name")})  # type: ignore[arg-type]

    def names(self) -> dict[str, str]:
        """For another process: without what was read here."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key, "server_name": self.server_name}

    def __reduce__(self) -> Any:
        return Tls.of, (self.names(),)

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if bool(self.cert) != bool(self.key):
            raise BadSettings("TLS: a client's certificate and its key are given together, or not at all")

    def context(self, server_name: str = "") -> ssl.SSLContext:
        """Of a connection by other means than gRPC, with what the files contain now. Raises OSError.

        server_name: that the address was resolved from; "": that of the connection.
        """
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = self.server_name or server_name
        context.load_default_certs() if not self.ca else context.load_verify_locations(self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context

    @cached_property
    def files(self) -> PemFiles:
        """Raises BadSettings where they cannot be used."""
        return PemFiles(ca=self.ca, cert=self.cert, key=self.key, report=self.report)
