"""`lookalike keys`: make, list, revoke and rotate the API keys of gateways. I/O through the store of keys."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from typing import Any

from lookalike.access.key import AccessKey, new_key, to_document
from lookalike.access.key_store import KeyStore
from lookalike.access.open_store import open_key_store
from lookalike.cli import flags
from lookalike.cli.flags import command_parser
from lookalike.errors import BadSettings, NotFound
from lookalike.limits import MAX_LIMIT
from lookalike.runtime.call import SCOPES, CallerLimits
from lookalike.timestamps import unix_s, unix_time_s

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_STORE = """\
--keys is the file, or the Redis, that gateways have as their setting `keys`. They notice a change within two seconds.

exit status: 0 done; 1 the store cannot be reached, or has no such key; 2 an argument is wrong
"""
_CREATE = f"""\
examples:
  lookalike keys create --keys keys.json --name shop-backend --scopes search
  lookalike keys create --keys keys.json --name nightly-update --scopes read,write --expires 90d
  lookalike keys create --keys redis://127.0.0.1:6379 --name partner --scopes search \\
      --calls-per-s 50 --burst 100 --concurrency 8 --photos-per-s 5 --no-exact --max-limit 50
  lookalike keys create --keys keys.json --name worker --scopes read,write --identity worker.shop.internal
      no key: callers whose certificate has this name

The key is shown once. Nobody can have it from the store again, which keeps its SHA-256.

{_STORE}"""
_LIST = f"""\
examples:
  lookalike keys list --keys keys.json
  lookalike keys list --keys redis://127.0.0.1:6379 --json

{_STORE}"""
_REVOKE = f"""\
example:
  lookalike keys revoke --keys keys.json 3f9a1c22b7d0

{_STORE}"""
_ROTATE = f"""\
example:
  lookalike keys rotate --keys keys.json 3f9a1c22b7d0 --overlap 24h

Make a second key with the same name, scopes and limits. Both are valid until the overlap is over: give callers the new
one meanwhile. Then the first one is refused; `keys revoke` removes it.

{_STORE}"""


def create(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("create", "Make an API key, or let callers with a certificate in.", _CREATE, environ)
    add = parser.add_argument
    add("--name", required=True, help="whose key it is, for people")
    add("--scopes", required=True, metavar="SCOPE,…", help=f"what it may do: {', '.join(SCOPES)}")
    add("--expires", type=_expiry, metavar="TIME", help="when it ends: 90d, 12h, 2027-01-31 (default: never)")
    add("--identity", default="", metavar="NAME", help="a name in certificates in place of a key")
    limits = parser.add_argument_group("limits, of each gateway process (default: none)").add_argument
    limits(
        "--calls-per-s", type=float, default=inf, metavar="N", help="each search of a batch, and each change, is one"
    )
    limits("--burst", type=float, default=0.0, metavar="N", help="calls at once (default: those of a second)")
    limits("--concurrency", type=float, default=inf, metavar="N", help="calls in flight")
    limits("--bytes-per-s", type=float, default=inf, metavar="N", help="of requests")
    limits("--photos-per-s", type=float, default=inf, metavar="N", help="that are encoded")
    limits("--no-exact", action="store_true", help="no exact searches")
    limits("--max-limit", type=int, default=MAX_LIMIT, metavar="N", help="most hits of a search (default %(default)s)")
    options = parser.parse_args(argv)
    key, token = new_key(
        options.name,
        frozenset(scope.strip() for scope in options.scopes.split(",")),
        now_s=int(unix_time_s()),
        expires_s=options.expires,
        limits=CallerLimits(
            calls_per_s=options.calls_per_s,
            burst=options.burst,
            concurrency=options.concurrency,
            bytes_per_s=options.bytes_per_s,
            photos_per_s=options.photos_per_s,
            exact=not options.no_exact,
            max_limit=options.max_limit,
        ),
        identity=options.identity,
    )
    _store(options).put(key)
    _show_new(options, key, token)
    return 0


def list_keys(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser("list", "List the API keys.", _LIST, environ).parse_args(argv)
    stored = _store(options).read()
    keys = stored.keys if stored else ()
    if options.json:
        print(json.dumps([_public(key) for key in keys], ensure_ascii=False, indent=1))
    else:
        print("\n".join(_line(key) for key in keys) or "there are no keys")
    return 0


def revoke(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("revoke", "Remove an API key: calls with it are refused within two seconds.", _REVOKE, environ)
    parser.add_argument("id", metavar="ID", help="of the key, as `keys list` shows it: the middle part of the key")
    options = parser.parse_args(argv)
    if not _store(options).remove(options.id):
        raise NotFound(f"there is no key {options.id}")
    print(json.dumps({"revoked": options.id}) if options.json else f"{options.id} is revoked")
    return 0


def rotate(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("rotate", "Make the successor of an API key, and let the key end.", _ROTATE, environ)
    parser.add_argument("id", metavar="ID", help="of the key that ends")
    parser.add_argument(
        "--overlap", type=_duration, default="24h", metavar="TIME", help="how long both are valid (default %(default)s)"
    )
    parser.add_argument("--expires", type=_expiry, metavar="TIME", help="when the new one ends (default: never)")
    options = parser.parse_args(argv)
    store, now_s = _store(options), int(unix_time_s())
    stored = store.read()
    old = next((key for key in (stored.keys if stored else ()) if key.id == options.id), None)
    if old is None:
        raise NotFound(f"there is no key {options.id}")
    if old.identity:
        raise BadSettings(f"{options.id} is the name {old.identity} in certificates: there is no key to rotate")
    new, token = new_key(old.name, old.scopes, now_s=now_s, expires_s=options.expires, limits=old.limits)
    end_s = now_s + options.overlap
    store.put(new)  # First: whatever happens then, there is a valid key.
    store.put(replace(old, expires_s=end_s if old.expires_s is None else min(end_s, old.expires_s)))
    _show_new(options, new, token)
    if not options.json:
        print(f"{old.id} ends in {options.overlap / 3600:g} h")
    return 0


def _parser(command: str, description: str, epilog: str, environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = command_parser(f"keys {command}", description, epilog)
    keys = environ.get("LOOKALIKE_KEYS")  # Not shown in the help: a URL may have a password.
    parser.add_argument(
        "--keys", metavar="FILE|URL", default=keys, required=not keys, help="file, or redis://… [LOOKALIKE_KEYS]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    flags.add_tls_flags(parser, environ)
    return parser


def _store(options: argparse.Namespace) -> KeyStore:
    flags.use_tls(options)
    return open_key_store(options.keys)


def _show_new(options: argparse.Namespace, key: AccessKey, token: str) -> None:
    if options.json:
        print(json.dumps({**_public(key), **({"key": token} if token else {})}, ensure_ascii=False))
    elif token:
        print(f"{token}\n\nThis is the only time that the key is shown. Callers send it as\n")
        print(f"  authorization: Bearer lk_{key.id}_…")
    else:
        print(_line(key))


def _public(key: AccessKey) -> dict[str, Any]:
    """What is shown of a key: its hash is of no use to anybody."""
    return {name: value for name, value in to_document(key).items() if name != "sha256"}


def _line(key: AccessKey) -> str:
    ends = "" if key.expires_s is None else ("expired " if key.expires_s <= unix_time_s() else "until ")
    when = "" if key.expires_s is None else datetime.fromtimestamp(key.expires_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    scopes = ",".join(scope for scope in SCOPES if scope in key.scopes)
    limits = " ".join(f"{name}={value:g}" for name, value in to_document(key).get("limits", {}).items())
    parts = (key.id, key.name, scopes, f"certificate {key.identity}" if key.identity else "", ends + when, limits)
    return "  ".join(part for part in parts if part)


def _duration(text: str) -> int:
    """An argparse `type`: seconds of 30m, 12h, 90d, 2w."""
    if text[:-1].isdecimal() and text[-1:] in _UNITS:
        return int(text[:-1]) * _UNITS[text[-1]]
    raise argparse.ArgumentTypeError("write 30m, 12h, 90d or 2w")


def _expiry(text: str) -> int:
    """An argparse `type`: seconds since 1970."""
    try:
        end_s = int(unix_time_s()) + _duration(text)
    except argparse.ArgumentTypeError:
        try:
            end_s = unix_s(text)
        except ValueError:
            raise argparse.ArgumentTypeError("write 90d, 12h or a time like 2027-01-31") from None
    if end_s <= unix_time_s():
        raise argparse.ArgumentTypeError("is in the past")
    return end_s
