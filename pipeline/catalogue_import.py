"""`lookalike catalog import`: makes a catalogue of a table and photos from elsewhere. Reads and writes files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue, BadSettings
from lookalike.printable import escape_unprintable
from lookalike.product_rules import BadField, CatalogueProduct, RejectReason
from pipeline import archive, catalogue, table_reader
from pipeline.catalogue_report import CatalogueReport
from pipeline.column_mapping import ColumnMapping, parse_mapping
from pipeline.ordered_map import ordered_map
from pipeline.photos import open_photo
from pipeline.product import RejectedRow, parse_row


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """What is imported: a table, how its columns map to a product's fields, and where its photos are."""

    table: Path
    mapping: ColumnMapping
    columns: tuple[str, ...] = ()  # The names of the columns if the table has no header line.
    images: Path | None = None
    require_image: bool = False  # Reject rows whose photo is missing, instead of importing them without one.


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A valid product whose photo is not copied and decoded yet."""

    line: int
    product: CatalogueProduct  # `image` is where its photo goes in the catalogue.
    source_photo: str  # The photo's name in the source; empty: no photo.


def import_catalogue(
    source: ImportSource, directory: Path, *, limit: int | None = None, strict: bool = False, quiet: bool = True
) -> CatalogueReport:
    """Write the first `limit` valid products of a source as a new catalogue. Returns the counts and rejected rows."""
    _check_columns(source)
    report = CatalogueReport(strict=strict)
    files = archive.photo_names(source.images) if source.images else {}
    catalogue.create_directory(directory)
    candidates = list(islice(_candidates(source, files, report), limit))
    if source.images:
        targets = {
            candidate.source_photo: directory / candidate.product.image
            for candidate in candidates
            if candidate.source_photo
        }
        archive.copy_photos(source.images, targets)
    products: list[CatalogueProduct] = []
    with progress_bar("checking photos", total=len(candidates), quiet=quiet) as count:
        for product in _with_valid_photos(source, directory, candidates, report):
            products.append(product)
            count()
    report.products = catalogue.write(directory, products)
    if not products:
        raise BadCatalogue(f"{source.table}: no valid product in it")
    return report


def _check_columns(source: ImportSource) -> None:
    """Raise BadSettings if the table lacks a column that the mapping reads, or only one photo option is given."""
    columns = source.columns or table_reader.column_names(source.table)
    if columns is not None and (missing := sorted(source.mapping.columns() - set(columns))):
        raise BadSettings(f"{source.table.name} has no column {', '.join(missing)}; it has {', '.join(columns)}")
    if bool(source.images) != bool(source.mapping.image):
        raise BadSettings(
            "--images and --image must be given together: where the photos are, and the file name of a photo"
        )


def _candidates(source: ImportSource, files: Mapping[str, str], report: CatalogueReport) -> Iterator[_Candidate]:
    """Read the table, and report the rows that are not valid products. files: photos by name (archive.photo_names)."""
    lines_by_id: dict[str, int] = {}
    for record in table_reader.read_records(source.table, columns=source.columns):
        fields: Mapping[str, object] = {}
        try:
            if isinstance(record, table_reader.BrokenRecord):
                raise BadField("", RejectReason.BROKEN_ROW, record.detail)
            fields = source.mapping.product_fields(record.fields)
            candidate = _candidate(source, files, record, parse_row(fields))
            if (line := lines_by_id.get(candidate.product.id)) is not None:
                raise BadField("id", RejectReason.DUPLICATE_ID, f"line {line} has the same id")
        except BadField as bad:
            report.reject(catalogue.rejected_row(source.table, table_reader.Record(record.line, fields), bad))
            continue
        lines_by_id[candidate.product.id] = record.line
        yield candidate


def _candidate(
    source: ImportSource, files: Mapping[str, str], record: table_reader.Record, product: CatalogueProduct
) -> _Candidate:
    name = source.mapping.image_name(record.fields) if source.images else ""
    photo = files.get(name, "")
    if source.require_image and not photo:
        raise BadField(
            "image", RejectReason.MISSING_IMAGE, f"no {escape_unprintable(name) or 'photo name'} in {source.images}"
        )
    if name and not archive.is_inside(name):
        raise BadField("image", RejectReason.BAD_IMAGE, escape_unprintable(name))
    # The folder "images" of an archive becomes the folder "images" of the catalogue, not "images/images".
    image = f"{catalogue.IMAGES}/{photo.removeprefix(f'{catalogue.IMAGES}/')}" if photo else ""
    return _Candidate(record.line, dataclasses.replace(product, image=image), photo)


def _with_valid_photos(
    source: ImportSource, directory: Path, candidates: Sequence[_Candidate], report: CatalogueReport
) -> Iterator[CatalogueProduct]:
    """The products whose copied photo can be decoded; the others are reported, and their photos deleted."""

    def decode_error(candidate: _Candidate) -> BadField | None:
        try:
            if candidate.product.image:
                open_photo(directory / candidate.product.image)
        except BadField as bad:
            return bad
        return None

    for candidate, bad in ordered_map(decode_error, candidates, workers=2, ahead=32):
        if bad is None:
            yield candidate.product
            continue
        with contextlib.suppress(OSError):  # It may never have been written.
            (directory / candidate.product.image).unlink()
        file, product_id = source.table.name, candidate.product.id
        report.reject(RejectedRow(file=file, line=candidate.line, id=product_id, reason=bad.reason, detail=bad.detail))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if args.no_header != bool(args.columns):
        raise BadSettings(
            "--no-header and --columns must be given together: a table without a header line needs column names"
        )
    if args.limit is not None and args.limit < 1:
        raise BadSettings(f"--limit {args.limit}: must be 1 or more")
    mapping = parse_mapping(
        args.field,
        args.set,
        image=args.image,
        category_separator=args.category_separator,
        category_prefix=args.category_prefix,
        category_depth=args.category_depth,
    )
    source = ImportSource(
        table=args.source,
        mapping=mapping,
        columns=tuple(name.strip() for name in args.columns.split(",") if name.strip()),
        images=args.images,
        require_image=args.require_image,
    )
    report = import_catalogue(source, args.directory, limit=args.limit, strict=args.strict, quiet=False)
    items = catalogue.read(args.directory)
    photos = sum(not isinstance(item, RejectedRow) and bool(item[1].image) for item in items)
    if args.json:
        print(json.dumps(report.as_json() | {"photos": photos}, indent=1))
    else:
        print(f"{args.directory}: {report} ({photos:,} with a photo)")
    return 0


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
        description="Make a catalogue of a CSV, JSON lines or Parquet file, and photos in a folder or a tar file. "
        "Bad rows are reported and skipped. The column called id is the product's id unless --field says otherwise.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help=".csv, .tsv, .jsonl (each also .gz) or .parquet")
    add("directory", type=Path, metavar="DIR", help="the new catalogue; must be empty or not exist")
    add(
        "--field",
        action="append",
        default=[],
        metavar="FIELD=COLUMN[,COLUMN…]",
        help="the columns that a field is made of; for tags: column or 'colour:{column}'",
    )
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="one value for every product")
    add(
        "--category-separator",
        default="/",
        metavar="TEXT",
        help="separates the parts of a category in its column (default /)",
    )
    add("--category-prefix", default="", metavar="NAME", help="put every category below this one")
    add("--category-depth", type=int, default=0, metavar="N", help="keep the first N parts of a category")
    add("--images", type=Path, metavar="PATH", help="photos: a folder or a .tar, .tar.gz, .tar.xz file")
    add("--image", default="", metavar="NAME", help="file name of a photo, with columns in braces: '{id}.jpg'")
    add("--require-image", action="store_true", help="skip rows whose photo is missing")
    add("--no-header", action="store_true", help="the table has no header: its first line is a product")
    add("--columns", default="", metavar="A,B,…", help="the column names, with --no-header")
    add("--limit", type=int, metavar="N", help="only the first N products")
    add("--strict", action="store_true", help="stop at the first bad row, with exit status 2")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser
