"""`lookalike catalog dead-letters`: lists, shows, replays and drops the events that workers gave up on. Network I/O."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from lookalike.errors import BadSettings, NotFound
from lookalike.printable import escape_unprintable
from lookalike.stream import event as events
from lookalike.stream.consumer import entry_order
from lookalike.stream.product_stream import DeadLetter, ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.timestamps import unix_time_s
from pipeline import stream_options

_EPILOG = """\
examples:
  lookalike catalog dead-letters list --stream redis://127.0.0.1:6379
  lookalike catalog dead-letters list --reason 404 --json | jq -r .id
  lookalike catalog dead-letters show 1764066600000-0
  lookalike catalog dead-letters replay 1764066600000-0          workers try it again
  lookalike catalog dead-letters replay --all --reason 'timed out'
  lookalike catalog dead-letters drop --all

A replayed event keeps its revision: where a newer change of the product was made meanwhile, it changes nothing.

exit status: 0 done; 1 the stream failed, or there is no such dead letter; 2 an argument is wrong
"""
_PAGE = 500


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    settings = stream_options.stream_settings(args)
    if args.action in ("replay", "drop", "show") and bool(args.ids) == args.all:
        raise BadSettings(f"dead-letters {args.action}: name ids, or give --all")

    async def run() -> int:
        stream = await open_redis_stream(settings)
        try:
            return await _ACTIONS[args.action](stream, args)
        finally:
            await stream.close()

    return asyncio.run(run())


async def _list(stream: ProductStream, args: argparse.Namespace) -> int:
    count = 0
    async for letter in _chosen(stream, args):
        count += 1
        print(json.dumps(as_dict(letter), ensure_ascii=False) if args.json else _line(letter))
    if not args.json:
        print(f"{count:,} dead letter{'' if count == 1 else 's'}", file=sys.stderr)
    return 0


async def _show(stream: ProductStream, args: argparse.Namespace) -> int:
    async for letter in _chosen(stream, args):
        print(json.dumps(as_dict(letter), ensure_ascii=False, indent=None if args.json else 1))
    return 0


async def _replay(stream: ProductStream, args: argparse.Namespace) -> int:
    """Replay those that are events; the others are named, and make the exit status 1."""
    replayed, others = [], []
    async for letter in _chosen(stream, args):
        if letter.event is None:
            others.append(letter.id)
            print(f"{letter.id}: is no event: it can only be dropped", file=sys.stderr)
            continue
        try:
            replayed.append({"id": letter.id, "handle": str(await stream.replay(letter.id))})
        except NotFound:  # Another command has taken it meanwhile.
            others.append(letter.id)
    print(json.dumps({"replayed": replayed}) if args.json else f"{len(replayed):,} replayed")
    return 1 if others else 0


async def _drop(stream: ProductStream, args: argparse.Namespace) -> int:
    dropped = []
    async for letter in _chosen(stream, args):
        await stream.drop(letter.id)
        dropped.append(letter.id)
    print(json.dumps({"dropped": dropped}) if args.json else f"{len(dropped):,} dropped")
    return 0


_ACTIONS = {"list": _list, "show": _show, "replay": _replay, "drop": _drop}


async def _chosen(stream: ProductStream, args: argparse.Namespace) -> AsyncIterator[DeadLetter]:
    """The dead letters that are named, or all that pass the conditions and were there when this began."""
    if args.ids:
        for letter in [await stream.dead_letter(id) for id in args.ids]:
            yield letter
        return
    after, left = "", args.limit
    ends_at = f"{int(unix_time_s() * 1000) + 1000}-0"  # One that is replayed and parked again is not taken again.
    while page := await stream.dead_letters(after=after, limit=_PAGE):
        after = page[-1].id
        for letter in page:
            if left == 0 or entry_order(letter.id) > entry_order(ends_at):
                return
            if args.reason in letter.reason and args.product in ("", product_id(letter)):
                left -= 1
                yield letter


def as_dict(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as JSON."""
    return {
        "id": letter.id,
        "product_id": product_id(letter),
        "revision": events.revision_of(letter.event.change) if letter.event else 0,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "group": letter.group,
        "handle": str(letter.handle),
        "appended_at": _time(letter.appended_at_s),
        "parked_at": _time(letter.parked_at_s),
        "event": None if letter.event is None else MessageToDict(letter.event, preserving_proto_field_name=True),
    }


def product_id(letter: DeadLetter) -> str:
    return events.product_id_of(letter.event.change) if letter.event else ""


def _line(letter: DeadLetter) -> str:
    tries = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    kind = letter.event.change.WhichOneof("change") if letter.event else "no event"
    text = f"{letter.id}  {_time(letter.parked_at_s)}  {kind} {product_id(letter)}  {tries}: {letter.reason}"
    return escape_unprintable(text)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog dead-letters",
        description="The events that workers gave up on, each with the reason.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", choices=_ACTIONS, help="list them; show, replay or drop some")
    add("ids", nargs="*", metavar="ID", help="as `list` prints them")
    add("--all", action="store_true", help="all that pass the conditions")
    add("--reason", default="", metavar="TEXT", help="only those whose reason has this text")
    add("--product", default="", metavar="ID", help="only those of this product")
    add("--limit", type=int, default=-1, metavar="N", help="at most so many (default: all)")
    add("--json", action="store_true", help="print JSON, of `list` one line for each")
    stream_options.add_stream_options(parser, environ)
    return parser
