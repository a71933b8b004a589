"""TLS of a serving process by its settings: who it is, who may call, whom it calls. I/O: files of certificates."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from functools import partial

import grpc
from cryptography import x509
from prometheus_client import Counter, Gauge

from lookalike import channels
from lookalike.errors import PermissionDenied
from lookalike.runtime.call import Call, Guard
from lookalike.runtime.settings import ProcessSettings
from lookalike.tls import PemFiles, Pems, Tls

log = logging.getLogger(__name__)

EXPIRY = Gauge(
    "lookalike_tls_certificate_expiry_timestamp_seconds",
    "When a certificate that is in use expires, of a file of several the first: own, ca (of servers), client_ca",
    ["certificate"],
)
READINGS = Counter(
    "lookalike_tls_readings_total",
    "Readings of certificates and keys, at the start and after changes: used, or refused for what was read before",
    ["result"],
)
INSECURE = Gauge(
    "lookalike_insecure", "Whether this process listens beyond its machine unprotected, as --insecure allows"
)

# Connections with TLS end by their age, so that a drain need not wait longer: gRPC varies it by 10 %, and in the last
# fifth of a drain calls are refused (`lookalike.runtime.lifecycle`). A handshake takes 1 ms of CPU at either
# end (benchmarks/results/tls.json).
_AGE_SHARE = 0.6
_MAX_AGE_S = 300.0


def connection_age_s(drain_s: float) -> float:
    """The age at which a connection with TLS ends, in a server that drains for so long."""
    return min(_MAX_AGE_S, max(1.0, _AGE_SHARE * drain_s)) if drain_s else _MAX_AGE_S


def use_outgoing_tls(settings: ProcessSettings) -> None:
    """Open this process's channels as its settings say. Raises BadSettings for files that cannot be used."""
    tls = outgoing_tls(settings)
    channels.use_tls(tls)


def outgoing_tls(settings: ProcessSettings) -> Tls | None:
    if not settings.tls_ca:
        return None
    return Tls(
        ca=settings.tls_ca,
        cert=settings.tls_cert,
        key=settings.tls_key,
        server_name=settings.tls_server_name,
        report=partial(_report, "ca"),
    )


def server_files(settings: ProcessSettings) -> PemFiles | None:
    """What a server shows, and knows its callers by; None: it has no TLS. Raises BadSettings for unusable files."""
    if not settings.tls_cert:
        return None
    return PemFiles(
        ca=settings.tls_client_ca, cert=settings.tls_cert, key=settings.tls_key, report=partial(_report, "client_ca")
    )


def server_tls(files: PemFiles | None) -> grpc.ServerCredentials | None:
    """The credentials of the server, which each handshake takes from the files as they are then; None: no TLS."""
    if files is None:
        return None
    return grpc.dynamic_ssl_server_credentials(
        files.current().server_configuration(),
        ServerConfigurations(files),  # type: ignore[arg-type]  # None is allowed: "no change".
        require_client_authentication=bool(files.ca),
    )


class ServerConfigurations:
    """What a handshake of gRPC's asks for: the new configuration after a change, else None. Called by any thread."""

    def __init__(self, files: PemFiles) -> None:
        self._files = files
        self._given = files.current()
        self._lock = threading.Lock()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            if (pems := self._files.current()) is self._given:
                return None
            self._given = pems
            return pems.server_configuration()


def guard_of(settings: ProcessSettings, then: Guard | None = None) -> Guard | None:
    """Refuses callers whose certificates have none of the allowed names, and then what another guard does.

    None: there are neither.
    """
    if not settings.tls_allowed_names:
        return then
    allowed = frozenset(settings.tls_allowed_names)

    def guard(call: Call) -> None:
        if allowed.isdisjoint(call.identities):
            names = ", ".join(call.identities) or "no name"
            raise PermissionDenied(f"the certificate of {names} may not call this server: tls_allowed_names has others")
        if then is not None:
            then(call)

    return guard


def metrics_tls(files: PemFiles | None) -> Callable[[], ssl.SSLContext] | None:
    """The context of the next connection to the Prometheus page; None: it is plain.

    It looks at the files as handshakes do: the page tells of the certificates that are in use, though nobody calls.
    """
    if files is None:
        return None
    contexts: dict[Pems, ssl.SSLContext] = {}

    def context() -> ssl.SSLContext:
        if (pems := files.current()) not in contexts:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.load_cert_chain(files.cert, files.key)
            if files.ca:
                made.load_verify_locations(files.ca)
                made.verify_mode = ssl.CERT_REQUIRED
            contexts.clear()
            contexts[pems] = made
        return contexts[pems]

    return context


def report_exposure(settings: ProcessSettings) -> None:
    """Say in the log and in a metric what anybody may do who reaches this process."""
    exposure = settings.exposure()
    INSECURE.set(bool(exposure))
    if exposure:
        log.warning("insecure: listening on %s, and %s", settings.host, exposure)


def _report(ca: str, pems: Pems | None, reason: str) -> None:
    READINGS.labels("refused" if reason else "used").inc()
    if pems is None:
        return
    for label, data in ((ca, pems.ca), ("own", pems.cert)):
        if not data:
            continue
        try:
            certificates = x509.load_pem_x509_certificates(data)
        except ValueError as error:  # OpenSSL, which has checked them, is less strict.
            log.warning("TLS: when the certificates (%s) expire is not known: %s", label, error)
        else:
            EXPIRY.labels(label).set(min(each.not_valid_after_utc.timestamp() for each in certificates))
