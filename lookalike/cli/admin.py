"""`lookalike admin`: ask a gateway what it serves, change that, flush its cache, stop it. Network I/O (gRPC)."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lookalike.cli import flags
from lookalike.cli.progress import progress_bar
from lookalike.cli.render import printable
from lookalike.client import Client
from lookalike.errors import DeadlineExceeded, Unavailable
from lookalike.spaces import space_name
from lookalike.v1.admin_pb2 import (
    ApiKey,
    CreateKeyRequest,
    CreateKeyResponse,
    CutOverRequest,
    CutOverResponse,
    DrainRequest,
    FlushCacheRequest,
    GetStatusRequest,
    GetStatusResponse,
    KeyLimits,
    ListKeysRequest,
    ListReleasesRequest,
    ListReleasesResponse,
    RevokeKeyRequest,
    RollBackRequest,
    SetCanaryRequest,
)

_EXIT = """
The gateway, or node, has to answer Admin: its setting `admin`.
exit status: 0 done; 1 refused, or the service failed; 2 an argument is wrong
"""
_STATUS = """\
examples:
  lookalike admin status
  lookalike admin status --json | jq '.shards[] | select(.serves | not)'
"""
_RELEASES = """\
examples:
  lookalike admin releases
  lookalike admin releases --json | jq -r '.releases[] | select(.serves) | .name'
"""
_CUT_OVER = """\
examples:
  lookalike admin cut-over 5f2c9a0d1e7b3c48
  lookalike admin cut-over 5f2c9a0d1e7b3c48 --expected 77aa01c3de529b10    only if that serves now
  lookalike admin cut-over 5f2c9a0d1e7b3c48 --no-wait                      return before requests are answered from it
"""
_ROLL_BACK = """\
examples:
  lookalike admin rollback
  lookalike admin rollback --expected 77aa01c3de529b10      go back from that release, and from no other
"""
_CANARY = """\
examples:
  lookalike admin canary 5f2c9a0d1e7b3c48 --share 0.05
  lookalike admin canary --off
"""
_KEYS = """\
examples:
  lookalike admin keys
  lookalike admin keys --json | jq -r '.keys[] | select(.scopes | index("admin")) | .name'

`lookalike keys` does the same with the store itself, without a gateway.
"""
_CREATE_KEY = """\
examples:
  lookalike admin create-key --name shop-backend --scopes search
  lookalike admin create-key --name partner --scopes search --calls-per-s 50 --concurrency 8 --expires 2027-01-31
  lookalike admin create-key --name worker --scopes read,write --identity worker.shop.internal

The key is shown once.
"""
_REVOKE_KEY = """\
example:
  lookalike admin revoke-key 3f9a1c22b7d0

Gateways refuse it within two seconds.
"""
_LIMITS = {
    "calls_per_s": "each search of a batch, and each change, is one",
    "burst": "calls at once (default: those of a second)",
    "concurrency": "calls in flight",
    "bytes_per_s": "of requests",
    "photos_per_s": "that are encoded",
    "max_limit": "most hits of a search",
}
_FLUSH = """\
examples:
  lookalike admin flush-cache

A gateway forgets the answers in its own memory, or those of its catalogue in Redis, which all its gateways share.
"""
_DRAIN = """\
examples:
  lookalike admin drain --address 10.0.0.7:50051

It stops as by SIGTERM: it reports NOT_SERVING, answers what comes until its callers are elsewhere, and ends. Whoever
started it (Kubernetes, systemd) starts it again.
"""
_LOOK_S = 0.25


def status(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser("status", "Show what a gateway serves, and from what.", _STATUS, environ).parse_args(argv)
    with flags.open_client(options) as client:
        response = client.admin(GetStatusRequest())
    _show(options, response, lambda: _print_status(response))
    return 0


def releases(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("releases", "List the releases that a gateway can let serve.", _RELEASES, environ)
    options = parser.parse_args(argv)
    with flags.open_client(options) as client:
        response = client.admin(ListReleasesRequest())
    _show(options, response, lambda: _print_releases(response))
    return 0


def cut_over(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("cut-over", "Let a release serve.", _CUT_OVER, environ)
    parser.add_argument("release", metavar="RELEASE")
    _add_change_flags(parser)
    options = parser.parse_args(argv)
    return _change(options, CutOverRequest(release=options.release, expected=options.expected))


def roll_back(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("rollback", "Let the release serve that served before this one.", _ROLL_BACK, environ)
    _add_change_flags(parser)
    options = parser.parse_args(argv)
    return _change(options, RollBackRequest(expected=options.expected))


def canary(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("canary", "Let a release answer a share of searches beside the one that serves.", _CANARY, environ)
    parser.add_argument("release", metavar="RELEASE", nargs="?", default="")
    parser.add_argument("--share", type=float, default=0.05, help="above 0 and at most 1 (default: %(default)s)")
    parser.add_argument("--off", action="store_true", help="try none any more")
    options = parser.parse_args(argv)
    if bool(options.release) == options.off:
        parser.error("name a release, or --off")
    request = SetCanaryRequest(release=options.release, share=options.share if options.release else 0)
    with flags.open_client(options) as client:
        response = client.admin(request)
    said = (
        f"release {options.release} answers {options.share:g} of searches" if options.release else "no release is tried"
    )
    _show(options, response, lambda: print(said))
    return 0


def keys(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser("keys", "List the API keys of a gateway.", _KEYS, environ).parse_args(argv)
    with flags.open_client(options) as client:
        response = client.admin(ListKeysRequest())
    _show(options, response, lambda: print("\n".join(map(_key_line, response.keys)) or "there are no keys"))
    return 0


def create_key(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("create-key", "Make an API key, or let callers with a certificate in.", _CREATE_KEY, environ)
    parser.add_argument("--name", required=True, help="whose key it is, for people")
    parser.add_argument("--scopes", required=True, metavar="SCOPE,…", help="search, read, write, admin")
    parser.add_argument("--expires", type=flags.parse_time, metavar="TIME", help=f"{flags.TIME_HELP} (default: never)")
    parser.add_argument("--identity", default="", metavar="NAME", help="a name in certificates in place of a key")
    for name, help in _LIMITS.items():
        kind = int if name == "max_limit" else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=help)
    parser.add_argument("--no-exact", action="store_true", help="no exact searches")
    options = parser.parse_args(argv)
    limits = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    request = CreateKeyRequest(
        name=options.name,
        scopes=[scope.strip() for scope in options.scopes.split(",")],
        identity=options.identity,
        expires_s=options.expires,
        limits=KeyLimits(no_exact=options.no_exact, **limits),
    )
    with flags.open_client(options) as client:
        response = client.admin(request)
    _show(options, response, lambda: _print_new_key(response))
    return 0


def revoke_key(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("revoke-key", "Remove an API key.", _REVOKE_KEY, environ)
    parser.add_argument("id", metavar="ID", help="of the key, as `admin keys` shows it")
    options = parser.parse_args(argv)
    with flags.open_client(options) as client:
        response = client.admin(RevokeKeyRequest(id=options.id))
    _show(options, response, lambda: print(f"{options.id} is revoked"))
    return 0


def flush_cache(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser("flush-cache", "Forget cached answers.", _FLUSH, environ).parse_args(argv)
    removed, complete = 0, False
    with flags.open_client(options) as client, progress_bar("flushing", quiet=options.json) as advance:
        while not complete:
            response = client.admin(FlushCacheRequest())
            removed, complete = removed + response.removed, response.complete
            advance()
    print(json.dumps({"removed": removed}) if options.json else f"{removed} cached answers are forgotten")
    return 0


def drain(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser("drain", "Stop a gateway or a node without a failed call.", _DRAIN, environ).parse_args(argv)
    with flags.open_client(options) as client:
        response = client.admin(DrainRequest())
    _show(options, response, lambda: print(f"it drains, and ends within {response.seconds:g} s"))
    return 0


def _change(options: argparse.Namespace, request: Message) -> int:
    with flags.open_client(options) as client:
        response: CutOverResponse = client.admin(request)
        followed = options.no_wait or _wait_until_followed(client, response.release, options)
    _show(options, response, lambda: _print_change(response))
    if not followed:
        raise Unavailable(
            f"release {response.release} is the one to serve, but the gateway is not at it yet: see status"
        )
    return 0


def _wait_until_followed(client: Client, release: str, options: argparse.Namespace) -> bool:
    """Whether requests are answered from the release, before the time-out."""
    until_s = time.monotonic() + options.wait_s
    with progress_bar(f"shards load {release}", quiet=options.json) as advance:
        while time.monotonic() < until_s:
            try:
                if client.admin(GetStatusRequest()).release == release:
                    return True
            except (Unavailable, DeadlineExceeded):  # It changes over, or is busy.
                pass
            advance()
            time.sleep(_LOOK_S)
    return False


def _parser(command: str, description: str, examples: str, environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = flags.command_parser(f"admin {command}", description, examples + _EXIT)
    flags.add_gateway_flags(parser, environ)
    return parser


def _add_change_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--expected", metavar="RELEASE", default="", help="change nothing unless this one serves now")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until requests are answered from it")
    parser.add_argument("--wait-s", type=float, default=120.0, help="how long to wait (default: %(default)s)")


def _show(options: argparse.Namespace, response: Message, show: Callable[[], None]) -> None:
    if options.json:
        fields = MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps(fields, ensure_ascii=False))
    else:
        show()


def _key_line(key: ApiKey) -> str:
    identity = f"certificate {printable(key.identity)}" if key.identity else ""
    until = (
        f"until {datetime.fromtimestamp(key.expires_s, UTC):%Y-%m-%d %H:%M UTC}" if key.HasField("expires_s") else ""
    )
    limits = " ".join(f"{field.name}={value:g}" for field, value in key.limits.ListFields())
    return "  ".join(
        part for part in (key.id, printable(key.name), ",".join(key.scopes), identity, until, limits) if part
    )


def _print_new_key(response: CreateKeyResponse) -> None:
    if response.token:
        print(f"{response.token}\n\nThis is the only time that the key is shown.")
    else:
        print(_key_line(response.key))


def _print_change(response: CutOverResponse) -> None:
    print(f"release {response.release} serves" + (f"; before, it was {response.before}" if response.before else ""))
    for notice in response.notices:
        print(f"notice: {printable(notice)}")


def _print_status(status: GetStatusResponse) -> None:
    console = Console()
    draining = "  draining" if status.draining else ""
    console.print(
        Text(f"release {status.release or '(none)'}  coverage {status.coverage:.3f}  cache {status.cache}{draining}")
    )
    if status.HasField("canary"):
        console.print(Text(f"canary {status.canary.release} answers {status.canary.share:g} of searches"))
    table = Table("shard", "serves", "documents", "replicas", "loaded", "")
    for shard in status.shards:
        notes = [*(["refuses CURRENT"] if shard.refuses else []), *(["is catching up"] if shard.catching_up else [])]
        notes += [f"lacks {shard.lost_changes} changes"] if shard.lost_changes else []
        table.add_row(
            str(shard.shard),
            "yes" if shard.serves else "no",
            f"{shard.documents:,}",
            ", ".join(f"{number} {state}" for number, state in enumerate(shard.replicas, 1)),
            " ".join(shard.releases) or "-",
            "; ".join(notes),
        )
    console.print(table)
    for encoder in status.encoders:
        refuses = ": refuses CURRENT" if encoder.refuses else ""
        console.print(Text(f"{encoder.role}: {' '.join(encoder.fingerprints) or 'nothing'}{refuses}"))
    if status.waits_for_encoders:
        console.print(Text(f"waits for {status.waits_for_encoders} encoders to serve the next release", "yellow"))


def _print_releases(listed: ListReleasesResponse) -> None:
    table = Table("", Column("release", min_width=16, no_wrap=True), "products", "shards", "spaces", "recall@10")
    for each in listed.releases:
        mark = "serves" if each.serves else f"canary {each.canary:g}" if each.canary else ""
        mark = mark or ("rolled back" if each.rolled_back else "")
        if each.damaged:
            table.add_row(mark, each.name, "damaged, or being uploaded")
            continue
        recall = f"{each.recall_at_10:.3f}" if each.HasField("recall_at_10") else "-"
        spaces = " ".join(space_name(space.space) for space in each.spaces)
        table.add_row(mark, each.name, f"{each.products:,}", str(each.shards), spaces, recall)
    Console().print(table)
