"""API keys, and names in certificates, with what each may do: tokens, and the document that stores keep. Pure.

A key's token is `lk_<id>_<secret>`. Stores have its SHA-256 in place of it. A slow hash would protect nothing more: it
is for passwords, which can be guessed; of a secret of 256 random bits, 10^18 guesses a second find none in 10^50 years.
And the hash is computed with every call: SHA-256 takes half a microsecond, a slow one milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from lookalike.errors import BadArtifact, BadSettings
from lookalike.limits import MAX_LIMIT
from lookalike.runtime.call import NO_LIMITS, SCOPES, Caller, CallerLimits

_TOKEN = re.compile(r"lk_([0-9a-f]{12})_[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{12}")
_MAX_NAME = 100
_FIELDS = {"id", "name", "scopes", "sha256", "identity", "created_s", "expires_s", "limits"}
_LIMITS = {field.name for field in dataclasses.fields(CallerLimits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key, or a name in certificates, and what its owner may do. It has a `digest` or an `identity`."""

    id: str
    name: str  # For people: whose it is.
    scopes: frozenset[str]
    created_s: int
    expires_s: int | None = None  # From then on it is refused; None: never.
    limits: CallerLimits = NO_LIMITS
    digest: bytes = b""  # SHA-256 of the token.
    identity: str = ""

    def caller(self) -> Caller:
        return Caller(self.identity or self.id, self.scopes, self.limits)


def new_key(
    name: str,
    scopes: frozenset[str],
    *,
    now_s: int,
    expires_s: int | None = None,
    limits: CallerLimits = NO_LIMITS,
    identity: str = "",
) -> tuple[AccessKey, str]:
    """A new key and its token, which nobody can have from the key; without a token for a name in certificates.

    Raises BadSettings for what `check` refuses.
    """
    id_ = secrets.token_hex(6)
    token = "" if identity else f"lk_{id_}_{secrets.token_hex(32)}"
    key = AccessKey(
        id=id_,
        name=name,
        scopes=scopes,
        created_s=now_s,
        expires_s=expires_s,
        limits=limits,
        digest=digest_of(token) if token else b"",
        identity=identity,
    )
    check(key)
    return key, token


def digest_of(token: str) -> bytes:
    """SHA-256 of a token: what stores have of it."""
    return sha256(token.encode("utf-8", "replace")).digest()


def id_of(token: str) -> str | None:
    """The id in a token; None: it is not written as one."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def check(key: AccessKey) -> None:
    """Raises BadSettings, naming the field."""
    if not 0 < len(key.name) <= _MAX_NAME or not key.name.isprintable():
        raise BadSettings(f"name: has {len(key.name)} characters, must have 1 to {_MAX_NAME}, all printable")
    if not key.scopes or not key.scopes <= set(SCOPES):
        raise BadSettings(f"scopes: {','.join(sorted(key.scopes))!r}: name one or several of {', '.join(SCOPES)}")
    if bool(key.digest) == bool(key.identity):
        raise BadSettings("identity: a key has either a secret or the name in a certificate")
    if _ID.fullmatch(key.identity):
        raise BadSettings(f"identity: {key.identity} could be the id of a key")
    limits = key.limits
    for name in ("calls_per_s", "concurrency", "bytes_per_s", "photos_per_s"):
        if not getattr(limits, name) > 0:  # NaN fails, too.
            raise BadSettings(f"{name}: {getattr(limits, name)} is not above 0")
    if not limits.burst >= 0:
        raise BadSettings(f"burst: {limits.burst} is below 0")
    if not 1 <= limits.max_limit <= MAX_LIMIT:
        raise BadSettings(f"max_limit: {limits.max_limit} is not in 1..{MAX_LIMIT}")


def to_document(key: AccessKey) -> dict[str, Any]:
    """The key as JSON has it; what is not set is left out."""
    limits = {name: value for name in sorted(_LIMITS) if (value := getattr(key.limits, name)) != _default(name)}
    document = {
        "id": key.id,
        "name": key.name,
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "sha256": key.digest.hex(),
        "identity": key.identity,
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "limits": limits,
    }
    return {name: value for name, value in document.items() if value not in ("", None, {})}


def from_document(document: object) -> AccessKey:
    """The key of `to_document`. Raises BadArtifact, which quotes nothing but names of fields and the id."""
    if not isinstance(document, Mapping):
        raise BadArtifact("a key is not an object")
    where = f"key {document.get('id', '?')!r}"
    if unknown := document.keys() - _FIELDS:
        raise BadArtifact(f"{where}: unknown fields: {', '.join(sorted(map(str, unknown)))}")
    limits = document.get("limits", {})
    if not isinstance(limits, Mapping) or limits.keys() - _LIMITS:
        raise BadArtifact(f"{where}: limits: allowed are {', '.join(sorted(_LIMITS))}")
    for name, value in limits.items():
        if not isinstance(value, bool if name == "exact" else int | float):
            raise BadArtifact(f"{where}: limits: {name} is of the wrong type")
    try:
        expires_s = document.get("expires_s")
        key = AccessKey(
            id=_text(document["id"]),
            name=_text(document["name"]),
            scopes=frozenset(map(_text, document["scopes"])),
            created_s=int(document.get("created_s", 0)),
            expires_s=None if expires_s is None else int(expires_s),
            limits=CallerLimits(**limits) if limits else NO_LIMITS,
            digest=bytes.fromhex(_text(document.get("sha256", ""))),
            identity=_text(document.get("identity", "")),
        )
        check(key)
    except KeyError as error:
        raise BadArtifact(f"{where}: {error.args[0]} is missing") from None
    except (TypeError, ValueError):
        raise BadArtifact(f"{where}: a field is of the wrong type") from None
    except BadSettings as error:
        raise BadArtifact(f"{where}: {error}") from None
    if key.digest and len(key.digest) != sha256().digest_size:
        raise BadArtifact(f"{where}: sha256 is not one")
    return key


def parse_json(text: str | bytes) -> object:
    """Raises BadArtifact, which does not quote the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadArtifact("not valid JSON") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _default(name: str) -> object:
    return getattr(NO_LIMITS, name)
