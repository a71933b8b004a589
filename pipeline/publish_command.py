"""`lookalike catalog publish`: puts the rows of a products file on the stream, as events. Reads files; network I/O."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue
from lookalike.stream import event as events
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.event_pb2 import ProductEvent
from pipeline import catalogue_options, stream_options
from pipeline.catalogue_report import CatalogueReport
from pipeline.change_rows import ChangeKind, ChangeRow, open_changes, read_changes, stamp
from pipeline.product import RejectedRow
from pipeline.publisher import Publisher, publish_all
from pipeline.tables.reader import Table

_EPILOG = """\
examples:
  lookalike catalog publish my-shop --stream redis://127.0.0.1:6379       every product, with its photo
  lookalike catalog publish new.csv --stream redis://127.0.0.1:6379       photos are below the file's folder
  lookalike catalog publish stock.csv --patch price,in_stock --stream redis://127.0.0.1:6379
  lookalike catalog publish gone.csv --remove --stream redis://127.0.0.1:6379
  lookalike catalog publish my-shop --dry-run --json | jq .reasons

An event is on the disk of the stream's Redis when it counts as published; workers (`lookalike serve worker`) make the
change. The newest revision wins: a row that states none has that of --revision, by default the time at which the
command started. Publishing a file again is harmless.

exit status: 0 published; 1 the stream failed: the message says how to go on; 2 an argument is wrong, the file cannot be
read, or more rows are bad than --max-rejected allows: then nothing is published
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    kind = ChangeKind(remove=args.remove, patch=tuple(each.strip() for each in args.patch.split(",") if each.strip()))
    settings = None if args.dry_run else stream_options.stream_settings(args)
    revision = stamp(args.revision_unit, unix_time_s(), args.revision)
    directory, table = open_changes(args.source, catalogue_options.table_options(args), kind)
    report = catalogue_options.new_report(args)

    def rows(report: CatalogueReport | None) -> Iterator[ChangeRow]:
        return _valid_rows(read_changes(directory, table, kind, revision=revision), table, report)

    # What would stop at a bad row reads all of them before it publishes the first.
    checked_first = args.dry_run or args.strict or args.max_rejected
    if checked_first:
        for _ in rows(report):
            pass
        report.check_rejected()
    published = None
    if settings is not None:
        root = args.photo_root or str(directory.resolve())
        source = f"publish {table.path.name}"
        with progress_bar("publishing") as count:
            published = asyncio.run(
                _publish(
                    rows(None if checked_first else report),
                    settings,
                    args,
                    source=source,
                    root=root,
                    revision=revision,
                    count=count,
                )
            )
    _print_result(args, report, published)
    if not report.products:
        raise BadCatalogue(f"{args.source}: no valid row in it")
    return 0


async def _publish(
    rows: Iterator[ChangeRow],
    settings: StreamSettings,
    args: argparse.Namespace,
    *,
    source: str,
    root: str,
    revision: int,
    count: Callable[[], None],
) -> int:
    """Append the events of the rows. Returns how many. Says on standard error how to go on after a failure."""
    lines = array("Q")  # Of the rows, in the order of their events.

    def found() -> Iterator[ProductEvent]:
        for row in rows:
            if row.line > args.after_line:
                lines.append(row.line)
                count()
                yield events.new_event(row.change, source=source, published_at_s=unix_time_s(), photo_root=root)

    stream = await open_redis_stream(settings)
    publisher = Publisher(stream, wait_s=args.wait_s, note=lambda text: print(f"notice: {text}", file=sys.stderr))
    try:
        await publish_all(publisher, found())
    except BaseException:
        done = publisher.published
        line = lines[done - 1] if done else args.after_line
        print(f"{done:,} published; to go on: --after-line {line} --revision {revision}", file=sys.stderr)
        raise
    finally:
        await stream.close()
    return publisher.published


def _valid_rows(
    rows: Iterator[ChangeRow | RejectedRow], table: Table, report: CatalogueReport | None
) -> Iterator[ChangeRow]:
    """The rows that are changes; the report has what is to be said of these and the others."""
    file = table.path.name
    for notice in table.notices if report else ():
        report.notice(notice)  # type: ignore[union-attr]  # there is one
    for row in rows:
        if report is not None:
            _count(report, file, row)
        if isinstance(row, ChangeRow):
            yield row


def _count(report: CatalogueReport, file: str, row: ChangeRow | RejectedRow) -> None:
    report.rows += 1
    if isinstance(row, RejectedRow):
        report.reject(row)
        return
    for notice in row.notices:
        report.notice(f"{file}:{row.line}: {notice}")
    if row.unused_photo is not None:
        report.note_unused_photo(row.unused_photo)
    if row.product is None:
        report.products += 1
    else:
        report.count_product(row.product, has_photo=bool(row.product.image), file=file, line=row.line)


def _print_result(args: argparse.Namespace, report: CatalogueReport, published: int | None) -> None:
    """published: None for a dry run."""
    if args.json:
        result = {"published": published, **report.as_json(), **report.problems_as_json()}
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        print(f"{args.source}: {report}")
        print(f"  published: {'nothing (--dry-run)' if published is None else f'{published:,} events'}")


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog publish",
        description="Put the products of a file on the stream of product events, from which workers take them. Rows "
        "are held to the rules of `lookalike catalog check`; bad ones are reported and skipped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="FILE|DIR", help="a products file (.jsonl, .csv, .xlsx, …), or a catalogue")
    add("--patch", default="", metavar="A,B,…", help="change only these fields of the products; the others stay")
    add("--remove", action="store_true", help="remove the products: only their ids are read")
    add(
        "--photo-root",
        default="",
        metavar="DIR|URL",
        help="where workers find photos that are stated by their paths (default: the file's folder, as it is here)",
    )
    add("--revision", type=int, metavar="N", help="of rows that state none (default: now, in --revision-unit)")
    add("--after-line", type=int, default=0, metavar="N", help="leave out the first N lines")
    add(
        "--wait-s",
        type=float,
        default=60.0,
        metavar="S",
        help="how long to wait for a stream that is full or cannot be reached (default %(default)s)",
    )
    add("--dry-run", action="store_true", help="only report; no stream is needed")
    add("--json", action="store_true", help="print the result, with every bad row and photo, as JSON")
    catalogue_options.add_table_options(parser)
    catalogue_options.add_report_options(parser)
    stream_options.add_stream_options(parser, environ)
    return parser
