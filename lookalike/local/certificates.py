"""A private certificate authority for development and trials: certificates of every role. I/O: files.

What it writes is named as Kubernetes and cert-manager name it, so that theirs can take its place:

    DIR/ca.crt, DIR/ca.key                  the authority; its key signs, and belongs nowhere else
    DIR/ROLE/tls.crt, tls.key, ca.crt       of one process, or caller
    DIR/model-server/ssl.config             the same, as TensorFlow-Serving reads it
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lookalike.errors import BadArtifact, BadSettings

SERVERS = ("gateway", "node", "shard", "text-encoder", "model-server", "worker", "redis", "stream")
CALLERS = ("client", "update", "prometheus")
NAMESPACE = "lookalike"
_HERE = ("localhost", "127.0.0.1", "::1")
_EARLIER = datetime.timedelta(minutes=5)  # Clocks differ.


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Issued:
    """PEM bytes of a certificate and its key."""

    cert: bytes
    key: bytes


def new_authority(now: datetime.datetime, days: int) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lookalike development CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # Signs certificates and CRLs.
    certificate = (
        _builder(name, name, key, now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(authority: Authority, names: Sequence[str], now: datetime.datetime, days: int, *, serves: bool) -> Issued:
    """A certificate of these names, host names and IP addresses, of which the first is its subject.

    serves: whether it is one of a server, too; every one is a caller's.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        _builder(subject, authority.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*map(_general_name, dict.fromkeys(names))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Issued(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def names_of(role: str, more: Sequence[str] = ()) -> list[str]:
    """The names in the certificate of a role: the first is its own, by which others may let it call."""
    if role not in SERVERS:
        return [role]
    domains = ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.cluster.local")
    services = [role + domain for domain in domains]
    # Pods of a StatefulSet are called by their own names: shard-0.shard.
    return [*services, *(f"*.{service}" for service in services), *_HERE, *more]


def write_all(
    directory: Path, roles: Sequence[str], names: Sequence[str], now: datetime.datetime, days: int, *, renew: bool
) -> list[Path]:
    """Write the authority, unless it is there, and a certificate for each role; the folders of the roles.

    renew: replace the certificates that are there; the authority stays, so that old and new ones are known alike.
    Raises BadSettings for certificates that are there already, BadArtifact for an authority that cannot be read.
    """
    folders = [directory / role for role in roles]
    if there := [str(folder) for folder in folders if (folder / "tls.key").exists() and not renew]:
        raise BadSettings(f"{', '.join(there)}: there are certificates already; --renew replaces them, by the same CA")
    authority = read_authority(directory) or new_authority(now, max(days, 3650))
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "ca.key", _key_pem(authority.key), 0o600)
    _write(directory / "ca.crt", authority.pem(), 0o644)
    for role, folder in zip(roles, folders, strict=True):
        folder.mkdir(exist_ok=True)
        issued = issue(authority, names_of(role, names), now, days, serves=role in SERVERS)
        _write(folder / "tls.key", issued.key, 0o600)
        _write(folder / "tls.crt", issued.cert, 0o644)
        _write(folder / "ca.crt", authority.pem(), 0o644)
        if role == "model-server":
            _write(folder / "ssl.config", tensorflow_serving_config(issued, authority.pem()), 0o600)
    return folders


def tensorflow_serving_config(own: Issued, client_ca: bytes) -> bytes:
    """TensorFlow-Serving's --ssl_config_file: an SSLConfig in text format, with what is in PEM files elsewhere."""
    fields = {"server_key": own.key, "server_cert": own.cert, "custom_ca": client_ca}
    lines = [f"{name}: {json.dumps(pem.decode())}" for name, pem in fields.items()]
    return "\n".join([*lines, "client_verify: true", ""]).encode()


def read_authority(directory: Path) -> Authority | None:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadArtifact(f"{directory}: the CA cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise BadArtifact(f"{directory}: ca.key is not the key of ca.crt")
    return Authority(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER if days >= 0 else now + datetime.timedelta(days=2 * days))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """By rename, so that nobody reads half a file; readable by others only where `mode` says so from the start."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
