"""`lookalike catalog sync`: its command line. Reads a database; writes to a stream, or a catalogue."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lookalike.cli.progress import progress_bar
from lookalike.errors import BadSettings, OperatorError, Unavailable
from lookalike.runtime.telemetry import configure_logging
from lookalike.stream.product_stream import ProductStream
from lookalike.stream.settings import StreamSettings
from lookalike.timestamps import unix_time_s
from pipeline import catalogue_options, stream_options
from pipeline.catalogue_report import MaxRejected, parse_max_rejected
from pipeline.sync import cursor as cursors
from pipeline.sync.settings import Output, SyncSettings, time_zone
from pipeline.sync.source import Source

if TYPE_CHECKING:  # SQLAlchemy is imported only where a database is read.
    from pipeline.sync.database import Database
    from pipeline.sync.passes import PassResult, Syncer

URL_VARIABLE: Final = "LOOKALIKE_SQL_URL"
_BACKOFF_S: Final = (1.0, 60.0)  # After a failure, doubled with each, up to the second.
_PROGRESS_ROWS: Final = 1000

log = logging.getLogger(__name__)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    settings, output = _settings(args), _output(args)
    url = _url(args, environ)
    try:
        from pipeline.sync.database import Database
    except ImportError as error:
        raise OperatorError(f"catalog sync needs the packages of the group `sql`: {error}") from None
    database = Database(url, settings.source)
    if output.stream_url or output.state:
        stream = stream_options.stream_settings(args) if output.stream_url and not args.dry_run else None
        return asyncio.run(_sync(args, settings, output, database, stream_settings=stream))
    return _snapshot(args, settings, output, database)


def _snapshot(args: argparse.Namespace, settings: SyncSettings, output: Output, database: Database) -> int:
    from pipeline.sync.snapshot import write_snapshot

    report = catalogue_options.new_report(args)
    with progress_bar("reading, thousands of rows") as count:
        directory = None if args.dry_run else output.catalogue
        write_snapshot(settings, database, directory, report, now_s=unix_time_s(), on_rows=_thousands(count))
    if args.json:
        print(json.dumps(report.as_json() | report.problems_as_json(), ensure_ascii=False, indent=1))
    else:
        print(f"{directory or database}: {report}")
    return 0


async def _sync(
    args: argparse.Namespace,
    settings: SyncSettings,
    output: Output,
    database: Database,
    *,
    stream_settings: StreamSettings | None,
) -> int:
    """Pass after pass with --follow, else one."""
    from pipeline.sync.passes import Stopped, Syncer
    from pipeline.sync.state import SyncState

    if output.follow:
        configure_logging("info")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with ExitStack() as stack:
        source = f"{settings.source} of {database}"
        state = stack.enter_context(
            SyncState(output.state, source=source, restart=output.restart, dry_run=args.dry_run)
        )
        executor = stack.enter_context(ThreadPoolExecutor(1, "database"))
        count = stack.enter_context(progress_bar("reading, thousands of rows", quiet=output.follow))
        stream = await _open_redis(stream_settings) if stream_settings else None
        syncer = Syncer(
            settings,
            database,
            state,
            stream,
            executor=executor,
            unix_time_s=unix_time_s,
            stopping=stopping,
            on_rows=_thousands(count),
        )
        try:
            if output.follow:
                await _follow(args, settings, output, syncer)
            else:
                report = catalogue_options.new_report(args)
                result = await syncer.run(report, full=output.full)
                _print(args, str(database), result)
        except Stopped:
            log.info("stopped; position: %s", _told(state.position))
            return 0 if output.follow else 130
        except Unavailable:
            log.warning("position: %s; the same command goes on from there", _told(state.position))
            raise
        finally:
            if stream is not None:
                await stream.close()
    return 0


async def _follow(args: argparse.Namespace, settings: SyncSettings, output: Output, syncer: Syncer) -> None:
    """Passes until the sync is stopped, or something fails that a person has to decide."""
    full, wait_s = output.full, _BACKOFF_S[0]
    while True:
        try:
            result = await syncer.run(catalogue_options.new_report(args), full=full)
        except Unavailable as error:
            log.warning("%s; again in %.0f s", error, wait_s)
            await syncer.pause(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _BACKOFF_S[1])
            continue
        full, wait_s = False, _BACKOFF_S[0]
        if result.upserts or result.removals or result.report.rejected:
            _log_or_print(args, result)
        await syncer.pause(settings.every_s * random.uniform(0.9, 1.1))


def _log_or_print(args: argparse.Namespace, result: PassResult) -> None:
    if args.json:
        print(json.dumps(result.as_json(), ensure_ascii=False), flush=True)
        return
    log.info(
        "%d products and %d removals published, %d bad rows; position: %s",
        result.upserts,
        result.removals,
        result.report.rejected,
        _told(result.position),
    )


def _print(args: argparse.Namespace, name: str, result: PassResult) -> None:
    if args.json:
        print(json.dumps(result.as_json() | result.report.problems_as_json(), ensure_ascii=False, indent=1))
    else:
        print(f"{name}: {result.report}\n  {result}")


def _told(position: cursors.Cursor | None) -> str:
    return "none" if position is None else cursors.describe(position)


def _thousands(count: Callable[[], None]) -> Callable[[int], None]:
    rows = 0

    def on_rows(number: int) -> None:
        nonlocal rows
        for _ in range((rows + number) // _PROGRESS_ROWS - rows // _PROGRESS_ROWS):
            count()
        rows += number

    return on_rows


async def _open_redis(settings: StreamSettings) -> ProductStream:
    from lookalike.stream.redis_stream import open_redis_stream

    return await open_redis_stream(settings)


def _url(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Of the database: from --sql, a file or the environment."""
    if args.sql and args.sql_file:
        raise BadSettings("--sql and --sql-file exclude each other")
    if args.sql_file:
        try:
            url = args.sql_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"--sql-file {args.sql_file}: {getattr(error, 'strerror', None) or 'no text'}") from None
    else:
        url = args.sql or environ.get(URL_VARIABLE, "")
    if not url:
        raise BadSettings(f"no database: give --sql URL, --sql-file FILE, or {URL_VARIABLE} in the environment")
    return str(url)


def _settings(args: argparse.Namespace) -> SyncSettings:
    if bool(args.query) == bool(args.table):
        raise BadSettings("give one of --query and --table")
    return SyncSettings(
        source=Source(
            table=args.table,
            query=args.query.strip().rstrip(";"),
            cursor=args.cursor,
            first=cursors.parse(args.first) if args.first else None,
        ),
        mapping=catalogue_options.column_mapping(args),
        zone=time_zone(args.time_zone),
        revision_unit=args.revision_unit,
        deleted=args.deleted,
        photo_root=args.photo_root,
        overlap=args.overlap,
        max_removed=parse_max_rejected(args.max_removed, "--max-removed") or MaxRejected(0, False),
        batch=args.batch,
        every_s=args.every,
    )


def _output(args: argparse.Namespace) -> Output:
    # The environment may name a stream.
    stream_url = "" if args.out or (args.dry_run and not args.state) else args.stream
    if not (stream_url or args.out or args.dry_run):
        raise BadSettings("give --stream URL or --out DIR, or --dry-run")
    return Output(
        stream_url=stream_url,
        catalogue=args.out,
        state=args.state,
        restart=args.restart,
        full=args.full,
        follow=args.follow,
    )


_EPILOG = """\
examples:
  export LOOKALIKE_SQL_URL=postgresql://reader:secret@db.example/shop
  lookalike catalog sync --query 'SELECT sku AS id, name AS title, department AS category, price, updated_at
      FROM products WHERE updated_at > :cursor ORDER BY updated_at' --cursor updated_at --from 1970-01-01
      --stream redis://127.0.0.1:6379 --state shop.sync --follow
  lookalike catalog sync --sql-file db.url --table products --field id=sku --field title=name
      --field category=department,kind --image '{photo_url}' --cursor updated_at --deleted deleted_at
      --stream redis://127.0.0.1:6379 --state shop.sync --follow --every 2
  lookalike catalog sync --table products --cursor updated_at --full --max-removed 2%
      --stream redis://127.0.0.1:6379 --state shop.sync
  lookalike catalog sync --table products --cursor updated_at --out nightly/
  lookalike catalog sync --table products --dry-run --json

A column that is called like a field of a product is that field; --field maps others. The database is only read.

exit status: 0 read to the end, or --follow was stopped; 1 the database or the stream cannot be reached; 2 something
has to be changed: an option, the query, or a cursor that went back; 130 stopped before the end
"""


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog sync",
        description="Publish the products of a SQL database, or what changed of them since the last time, as events; "
        "or write them as a catalogue. Bad rows are reported and skipped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("database").add_argument
    add(
        "--sql", default="", metavar="URL", help=f"postgresql://, mysql://, mariadb:// or sqlite:// (or {URL_VARIABLE})"
    )
    add("--sql-file", type=Path, metavar="FILE", help="holds the URL, so that no list of processes shows its password")
    add(
        "--query", default="", metavar="SQL", help="gives the products; may hold :cursor, and else is read from outside"
    )
    add("--table", default="", metavar="NAME", help="all rows of a table or view, or SCHEMA.NAME")
    add("--cursor", default="", metavar="COLUMN", help="rises with every change: a time (best), or a number")
    add(
        "--from", default="", dest="first", metavar="VALUE", help="the cursor to begin with, where nothing was read yet"
    )
    add(
        "--overlap",
        type=float,
        metavar="N",
        help="read again so many seconds, or units of a number, before the position: "
        "as long as a transaction takes to commit (default 60 seconds, or 1000)",
    )
    add("--deleted", default="", metavar="COLUMN", help="true, or a time, in rows that are deleted")
    add("--full", action="store_true", help="read all rows, and remove products that were published and are not there")
    add(
        "--max-removed", default="10%", metavar="N|P%", help="remove nothing if --full would remove more (default 10%%)"
    )
    add("--time-zone", default="UTC", metavar="NAME", help="of times that state none (default UTC)")
    catalogue_options.add_revision_option(parser)
    catalogue_options.add_mapping_options(parser)
    add = parser.add_argument_group("output").add_argument
    add("--state", type=Path, metavar="FILE", help="keeps the position, and what was published; made if it is missing")
    add("--restart", action="store_true", help="publish all rows anew, newer than before")
    add("--follow", action="store_true", help="read again and again, until SIGTERM or SIGINT")
    add("--every", type=float, default=5.0, metavar="SECONDS", help="between two reads (default %(default)g)")
    add("--batch", type=int, default=500, metavar="N", help="events published at once (default %(default)d)")
    add("--photo-root", default="", metavar="URL", help="where photos without a URL are: a directory, or s3://…")
    add("--out", type=Path, metavar="DIR", help="write all products as a catalogue, in place of its products.jsonl")
    stream_options.add_stream_options(parser, environ)
    catalogue_options.add_report_options(parser)
    add("--dry-run", action="store_true", help="only read and report, without --state as if nothing was read before")
    add("--json", action="store_true", help="print the result as JSON")
    return parser
