"""The command-line options of the commands that use the stream of product events. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lookalike.errors import BadSettings
from lookalike.stream.settings import DEFAULT_PARTITIONS, DEFAULT_PREFIX, StreamSettings


def add_stream_options(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add which stream it is; `stream_settings` reads them."""
    group = parser.add_argument_group("the stream of product events")
    add = group.add_argument
    add(
        "--stream",
        default=environ.get("LOOKALIKE_STREAM", ""),
        metavar="URL",
        help="redis://HOST:PORT of a Redis that persists [LOOKALIKE_STREAM]",
    )
    add("--stream-prefix", default=DEFAULT_PREFIX, metavar="TEXT", help="of its keys (default %(default)s)")
    add(
        "--stream-partitions",
        type=int,
        default=0,
        metavar="N",
        help=f"to create it with (default {DEFAULT_PARTITIONS}); another number than it has is refused",
    )
    add(
        "--stream-max-events",
        type=int,
        default=StreamSettings.max_events,
        metavar="N",
        help="that it may keep, dead letters included (default %(default)s)",
    )
    add(
        "--trust-durability",
        action="store_true",
        help="use a Redis that does not tell, or not say, that it keeps what it is given",
    )


def stream_settings(args: argparse.Namespace) -> StreamSettings:
    """Raises BadSettings."""
    if not args.stream:
        raise BadSettings("--stream is not given: the URL of a Redis, redis://HOST:PORT [LOOKALIKE_STREAM]")
    return StreamSettings(
        url=args.stream,
        prefix=args.stream_prefix,
        partitions=args.stream_partitions,
        max_events=args.stream_max_events,
        trust_durability=args.trust_durability,
    )
