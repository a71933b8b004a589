"""`lookalike catalog import`: turn a foreign table and its photos into a catalogue. Reads and writes files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lookalike.cli.progress import counting
from lookalike.errors import BadCatalogue, BadSettings
from pipeline import archive, catalogue, table_reader
from pipeline.catalogue_report import Report
from pipeline.column_mapping import Rules, mapping
from pipeline.ordered_map import ordered
from pipeline.photos import opened
from pipeline.product import Bad, Reason, Reject, Row, parsed, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A foreign catalogue: its table, and where its photos are."""

    table: Path
    rules: Rules
    columns: tuple[str, ...] = ()  # The names of the columns where the table has no line with them.
    images: Path | None = None
    require_image: bool = False  # A row whose photo is nowhere is a bad row, not a product without a photo.


@dataclass(frozen=True, slots=True)
class _Candidate:
    line: int
    row: Row  # Its image is where the photo goes in the catalogue.
    file: str  # Its photo in the source; empty: none.


def import_catalogue(
    source: Source, directory: Path, *, limit: int | None = None, strict: bool = False, quiet: bool = True
) -> Report:
    """Write the first `limit` good products of a source as a new catalogue; what became of the rows."""
    _check(source)
    report = Report(strict=strict)
    files = archive.names(source.images) if source.images else {}
    catalogue.new_directory(directory)
    candidates = list(islice(_candidates(source, files, report), limit))
    if source.images:
        wanted = {candidate.file: directory / candidate.row.image for candidate in candidates if candidate.file}
        archive.copy(source.images, wanted)
    with counting("checking photos", total=len(candidates), quiet=quiet) as count:
        rows = [row for row in _with_good_photos(source, directory, candidates, report) if not count()]
    report.products = catalogue.write(directory, rows)
    if not rows:
        raise BadCatalogue(f"{source.table}: no product in it")
    return report


def _check(source: Source) -> None:
    """Raises BadSettings where the table lacks a column that the rules read."""
    known = source.columns or table_reader.column_names(source.table)
    if known is not None and (missing := sorted(source.rules.columns() - set(known))):
        raise BadSettings(f"{source.table.name} has no column {', '.join(missing)}; it has {', '.join(known)}")
    if bool(source.images) != bool(source.rules.image):
        raise BadSettings("--images and --image go together: where the photos are, and what one is called")


def _candidates(source: Source, files: Mapping[str, str], report: Report) -> Iterator[_Candidate]:
    lines_of_ids: dict[str, int] = {}
    for record in table_reader.records(source.table, columns=source.columns):
        fields: Mapping[str, object] = {}
        try:
            if isinstance(record, table_reader.Broken):
                raise Bad(Reason.BROKEN_ROW, record.detail)
            fields = source.rules.product(record.fields)
            candidate = _candidate(source, files, record, parsed(fields))
            if (line := lines_of_ids.get(candidate.row.id)) is not None:
                raise Bad(Reason.DUPLICATE_ID, f"line {line} has it already")
        except Bad as bad:
            report.reject(catalogue.reject(source.table, table_reader.Record(record.line, fields), bad))
            continue
        lines_of_ids[candidate.row.id] = record.line
        yield candidate


def _candidate(source: Source, files: Mapping[str, str], record: table_reader.Record, row: Row) -> _Candidate:
    name = source.rules.image_name(record.fields) if source.images else ""
    file = files.get(name, "")
    if source.require_image and not file:
        raise Bad(Reason.MISSING_IMAGE, f"no {printable(name) or 'name of a photo'} in {source.images}")
    if name and not archive.inside(name):
        raise Bad(Reason.BAD_IMAGE_PATH, printable(name))
    # The folder "images" of an archive becomes that of the catalogue, it is not put into it.
    image = f"{catalogue.IMAGES}/{file.removeprefix(f'{catalogue.IMAGES}/')}" if file else ""
    return _Candidate(record.line, dataclasses.replace(row, image=image), file)


def _with_good_photos(
    source: Source, directory: Path, candidates: Sequence[_Candidate], report: Report
) -> Iterator[Row]:
    def fault(candidate: _Candidate) -> Bad | None:
        try:
            if candidate.row.image:
                opened(directory / candidate.row.image)
        except Bad as bad:
            return bad
        return None

    for candidate, bad in ordered(fault, candidates, workers=2, ahead=32):
        if bad is None:
            yield candidate.row
            continue
        with contextlib.suppress(OSError):  # It may never have been written.
            (directory / candidate.row.image).unlink()
        row, file = candidate.row, source.table.name
        report.reject(Reject(file=file, line=candidate.line, id=row.id, reason=bad.reason, detail=bad.detail))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if args.no_header != bool(args.columns):
        raise BadSettings("--no-header and --columns go together: a table without a line of names needs them")
    if args.limit is not None and args.limit < 1:
        raise BadSettings(f"--limit {args.limit}: not 1 or more")
    rules = mapping(
        args.field,
        args.set,
        image=args.image,
        category_separator=args.category_separator,
        category_prefix=args.category_prefix,
        category_depth=args.category_depth,
    )
    source = Source(
        table=args.source,
        rules=rules,
        columns=tuple(name.strip() for name in args.columns.split(",") if name.strip()),
        images=args.images,
        require_image=args.require_image,
    )
    report = import_catalogue(source, args.directory, limit=args.limit, strict=args.strict, quiet=False)
    photos = sum(1 for _, row in _rows(args.directory) if row.image)
    if args.json:
        print(json.dumps(report.as_json() | {"photos": photos}, indent=1))
    else:
        print(f"{args.directory}: {report} ({photos:,} with a photo)")
    return 0


def _rows(directory: Path) -> Iterator[tuple[int, Row]]:
    return (item for item in catalogue.read(directory) if not isinstance(item, Reject))


_EPILOG = """\
examples:
  lookalike catalog import shop.csv my-shop --field id=sku --field title=brand,name --field category=department,kind
      --field price=price --set currency=JPY --images photos/ --image '{sku}.jpg'
      --field 'tags={gender},colour:{shade},labels'
  lookalike catalog import names.csv.gz my-shop --no-header --columns id,title,tree --field title=title
      --field category=tree --category-separator ' >> ' --category-depth 3 --limit 1000
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog import",
        description="Turn a CSV, JSON lines or Parquet file, and photos in a folder or a tar file, into a catalogue. "
        "Bad rows are reported and skipped. The column called id is the id unless --field says otherwise.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help=".csv, .tsv, .jsonl (each also .gz) or .parquet")
    add("directory", type=Path, metavar="DIR", help="where to; must be empty or not exist")
    add(
        "--field",
        action="append",
        default=[],
        metavar="FIELD=COLUMN[,COLUMN…]",
        help="what a field is made of; tags: column or 'colour:{column}'",
    )
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="one value for every product")
    add("--category-separator", default="/", metavar="TEXT", help="what divides a category in its column (default /)")
    add("--category-prefix", default="", metavar="NAME", help="put every category below this one")
    add("--category-depth", type=int, default=0, metavar="N", help="keep the first N parts of a category")
    add("--images", type=Path, metavar="PATH", help="photos: a folder or a .tar, .tar.gz, .tar.xz file")
    add("--image", default="", metavar="NAME", help="what a photo is called, columns in braces: '{id}.jpg'")
    add("--require-image", action="store_true", help="skip rows whose photo is not there")
    add("--no-header", action="store_true", help="the table's first line is a product")
    add("--columns", default="", metavar="A,B,…", help="the columns' names where the table has none")
    add("--limit", type=int, metavar="N", help="only the first N products")
    add("--strict", action="store_true", help="stop at the first bad row, with exit status 2")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser
