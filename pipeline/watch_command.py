"""`lookalike catalog watch`: publishes what changes in a catalogue's directory. File and network I/O."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lookalike.errors import BadCatalogue, BadSettings, Overloaded, Unavailable
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from pipeline import catalogue, catalogue_options, stream_options
from pipeline.catalogue_report import CatalogueReport
from pipeline.directory_watch import DirectoryWatch, Look, WatchOptions, look
from pipeline.publisher import Publisher
from pipeline.watch_state import WatchState

STATE_FILE = ".lookalike-watch.sqlite"

_EPILOG = """\
examples:
  lookalike catalog watch my-shop --stream redis://127.0.0.1:6379
  lookalike catalog watch my-shop --once --stream redis://127.0.0.1:6379       what has changed since the last time
  lookalike catalog watch my-shop --remove-missing --max-removed 5

At first, every product is published; then those whose row or photo has changed. What was published is remembered in
--state, so that a restart publishes only what has changed meanwhile. Without --remove-missing a product that leaves the
file stays in the index.

exit status: 0 stopped by a signal, or done with --once; 1 the stream failed (--once); 2 an argument or the catalogue is
wrong
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    settings = stream_options.stream_settings(args)
    if not 0 <= args.max_removed <= 100:
        raise BadSettings(f"--max-removed {args.max_removed:g}: not a percentage")
    options = WatchOptions(
        table=catalogue_options.table_options(args),
        remove_missing=args.remove_missing,
        max_removed=args.max_removed / 100,
        photo_root=args.photo_root,
    )
    catalogue.find_products_file(args.directory)  # A directory that is no catalogue is refused at once.
    with WatchState(args.state or args.directory / STATE_FILE) as state, suppress(asyncio.CancelledError):
        asyncio.run(_watch(args, settings, options, state))
    return 0


async def _watch(args: argparse.Namespace, settings: StreamSettings, options: WatchOptions, state: WatchState) -> None:
    stream = await open_redis_stream(settings)
    if not args.once and (task := asyncio.current_task()) is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    publisher = Publisher(stream, wait_s=args.wait_s, note=_say)
    watch = DirectoryWatch(args.directory, state, publisher, options)
    try:
        if args.once:
            await _read(watch, args)
            return
        published: Look | None = None  # The look at which all was published.
        before: Look | None = None
        while True:
            now = await asyncio.to_thread(look, args.directory)
            if now == before != published:
                with suppress(_Later):
                    await _read_or_later(watch, args)
                    published = now
            before = now
            await asyncio.sleep(args.interval_s)
    finally:
        await stream.close()


class _Later(Exception):
    """What could not be published is tried again with the next look."""


async def _read_or_later(watch: DirectoryWatch, args: argparse.Namespace) -> None:
    try:
        await _read(watch, args)
    except (BadCatalogue, Overloaded, Unavailable) as error:
        _say(f"{error}; trying again in {args.interval_s:g} s")
        raise _Later from None


async def _read(watch: DirectoryWatch, args: argparse.Namespace) -> None:
    report = CatalogueReport()
    result = await watch.read(report)
    if result.not_removed:
        allowed = f"more than --max-removed {args.max_removed:g} % allows"
        _say(f"{result.not_removed:,} products are not in the file any more, {allowed}: none is removed")
    if args.json:
        counts = {"published": result.published, "removed": result.removed, "unchanged": result.unchanged}
        print(json.dumps({**counts, "rejected": report.rejected, "not_removed": result.not_removed}), flush=True)
    elif result.published or result.removed or args.once:
        print(
            f"{result.published:,} products published, {result.removed:,} removed, {result.unchanged:,} unchanged, "
            f"{report.rejected:,} bad rows",
            flush=True,
        )


def _say(text: str) -> None:
    print(f"notice: {text}", file=sys.stderr, flush=True)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog watch",
        description="Publish the products of a catalogue whose row or photo changes, until it is stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="the catalogue: a products file (.jsonl, .csv, …) and photos")
    add("--once", action="store_true", help="publish what has changed since the last time, and end")
    add(
        "--interval-s",
        type=float,
        default=2.0,
        metavar="S",
        help="between two looks at the directory; a change is published when one look finds it as the last did "
        "(default %(default)s)",
    )
    add("--state", type=Path, metavar="FILE", help=f"what was published (default DIR/{STATE_FILE})")
    add("--remove-missing", action="store_true", help="remove products that are not in the file any more")
    add(
        "--max-removed",
        type=float,
        default=10.0,
        metavar="P",
        help="remove none if more than so many percent are missing: the file may be cut off (default %(default)s)",
    )
    add(
        "--photo-root",
        default="",
        metavar="DIR|URL",
        help="where workers find the photos (default: the directory, as it is here)",
    )
    add("--wait-s", type=float, default=60.0, metavar="S", help="how long to wait for a full stream (default 60)")
    add("--json", action="store_true", help="print a line of JSON for each reading")
    catalogue_options.add_table_options(parser)
    stream_options.add_stream_options(parser, environ)
    return parser
