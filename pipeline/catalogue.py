"""Reads and writes a catalogue: a directory with a products file (JSON lines, CSV, …) and photos. Does file I/O.

docs/catalogue.md specifies the format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lookalike.errors import BadCatalogue
from lookalike.printable import quote
from lookalike.product_rules import (
    FIELDS,
    REQUIRED,
    TAG_SEPARATOR,
    BadField,
    CatalogueProduct,
    RejectReason,
    is_photo_url,
    parse_field,
)
from pipeline.product import (
    PhotoError,
    RejectedRow,
    UnusedPhoto,
    UnusedPhotoReason,
    parse_row,
    readable_id,
)
from pipeline.tables import reader
from pipeline.tables.reader import DEFAULT_OPTIONS, TableOptions
from pipeline.tables.record import BrokenRecord, Record

IMAGES = "images"
_STEM = "products"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """A valid product, the line of its row, and what became of its photo."""

    line: int
    product: CatalogueProduct  # `image`: of a file that exists, or a URL; empty: there is no photo that can be used.
    unused_photo: UnusedPhoto | None = None
    notices: tuple[str, ...] = ()  # What was changed in the product, such as a title that was cut.


def find_products_file(directory: Path) -> Path:
    """The only products file of a catalogue. Raises BadCatalogue if there is none, or more than one."""
    try:
        files = [path for path in sorted(directory.iterdir()) if _is_products_file(path)]
    except OSError:
        files = []
    if not files:
        raise BadCatalogue(f"{directory}: no catalogue here: it has no {_STEM} file ({', '.join(reader.SUFFIXES)})")
    if len(files) > 1:
        raise BadCatalogue(f"{directory}: more than one products file: {', '.join(path.name for path in files)}")
    return files[0]


def _is_products_file(path: Path) -> bool:
    ending = reader.suffix(path)
    return bool(ending) and path.name.lower() in (f"{_STEM}{ending}", f"{_STEM}{ending}.gz") and path.is_file()


def open_products(directory: Path, options: TableOptions = DEFAULT_OPTIONS) -> reader.Table:
    """Open the products file. Raises BadCatalogue if it cannot be read, or lacks a column."""
    table = reader.open_table(find_products_file(directory), options, wanted=REQUIRED)
    reader.require_columns(table, REQUIRED, BadCatalogue)
    return table


def read(directory: Path, options: TableOptions = DEFAULT_OPTIONS) -> Iterator[CatalogueRow | RejectedRow]:
    """Read the rows of a catalogue in order.

    Of several rows with one id the first valid one is kept. Photos are not opened; a product whose photo does not exist
    is kept without it. An unknown field is warned of once. Raises BadCatalogue if the file cannot be read at all.
    """
    return read_table(directory, open_products(directory, options))


def read_table(directory: Path | None, table: reader.Table) -> Iterator[CatalogueRow | RejectedRow]:
    """As `read`, of a products file that is open already.

    directory: None: photos stay as they are stated, whether or not their files exist.
    """
    file, find_photo = table.path.name, photo_path if directory is None else PhotoFiles(directory).find
    lines_by_id: dict[str, int] = {}
    warned: set[str] = set()
    for record in table.records():
        if isinstance(record, BrokenRecord):
            yield RejectedRow(file=file, line=record.line, id="", reason=RejectReason.BROKEN_ROW, detail=record.detail)
            continue
        _warn_of_unknown_fields(file, record, warned)
        notices: list[str] = []
        unused = None
        try:
            product = parse_row({**record.fields, "image": None}, notices, max_revision=table.max_revision)
            _refuse_duplicate(product, lines_by_id)
        except BadField as bad:
            yield rejected_row(file, record.line, record.fields, bad)
            continue
        lines_by_id[product.id] = record.line
        _warn_of_commas_in_tags(file, record, warned)
        if image := record.fields.get("image"):
            try:
                product = dataclasses.replace(product, image=find_photo(image))
            except PhotoError as error:
                unused = UnusedPhoto(
                    file=file, line=record.line, id=product.id, reason=error.reason, detail=error.detail
                )
        yield CatalogueRow(record.line, product, unused, tuple(notices))


def rejected_row(file: str, line: int, fields: Mapping[str, Any], bad: BadField) -> RejectedRow:
    """The report of a row that is not a valid product."""
    return RejectedRow(file=file, line=line, id=readable_id(fields), reason=bad.reason, detail=bad.detail)


def write(directory: Path, products: Iterable[CatalogueProduct]) -> int:
    """Write products.jsonl atomically, without fields that have their default. Returns the number of products.

    Nothing is left of it if reading `products` raises an error.
    """
    part, count = directory / f"{_STEM}.jsonl.part", 0
    try:
        with part.open("wb") as file:
            for count, product in enumerate(products, 1):  # noqa: B007  # the last one is the count
                file.write(orjson.dumps(_stated_fields(product), option=orjson.OPT_APPEND_NEWLINE))
        part.replace(directory / f"{_STEM}.jsonl")
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return count


_DEFAULTS = tuple(
    (each.name, None if each.default is dataclasses.MISSING else each.default)
    for each in dataclasses.fields(CatalogueProduct)
)


def _stated_fields(product: CatalogueProduct) -> dict[str, Any]:
    return {name: value for name, default in _DEFAULTS if (value := getattr(product, name)) != default}


def create_directory(directory: Path) -> Path:
    """Make the directory of a new catalogue. Raises BadCatalogue if it is not empty."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BadCatalogue(f"{directory}: not empty; a new catalogue needs an empty directory")
    except OSError as error:
        raise BadCatalogue(f"{directory}: {error.strerror}") from None
    return directory


_MAX_UNKNOWN_FIELDS = 100  # Warned of: a file whose field names are data would fill the terminal.


def _warn_of_unknown_fields(file: str, record: Record, warned: set[str]) -> None:
    for name in record.fields:
        if name not in FIELDS and name not in warned and len(warned) < _MAX_UNKNOWN_FIELDS:
            warned.add(name)
            log.warning("%s:%d: the unknown field %s is ignored", file, record.line, quote(name))


def _warn_of_commas_in_tags(file: str, record: Record, warned: set[str]) -> None:
    """Warn once of a text of tags with commas, which do not separate them."""
    if "," not in warned and isinstance(tags := record.fields.get("tags"), str) and "," in tags:
        warned.add(",")
        log.warning(
            "%s:%d: the tags %s hold commas, but %s separates tags", file, record.line, quote(tags), TAG_SEPARATOR
        )


def _refuse_duplicate(product: CatalogueProduct, lines_by_id: dict[str, int]) -> None:
    if (line := lines_by_id.get(product.id)) is not None:
        raise BadField("id", RejectReason.DUPLICATE_ID, f"line {line} has the same id")


class PhotoFiles:
    """The photos of a catalogue by the paths that rows state, whatever Unicode form the names on disk have.

    macOS writes decomposed names (NFD), everything else composed ones.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory.resolve()
        self._names: dict[Path, dict[str, str]] = {}  # Of a folder: composed name -> name on disk.

    def find(self, image: object) -> str:
        """The path of the photo's file below the directory, or its URL. Raises PhotoError if there is none."""
        path = photo_path(image)
        if not path or is_photo_url(path):
            return path
        try:
            for name in (str(image).strip(), path):
                file = (self._root / name).resolve()
                if file.is_file():
                    break
            else:
                name = self._on_disk(path)
                file = (self._root / name).resolve()
            exists = file.is_file()
        except (OSError, RuntimeError, ValueError):  # a name too long for the disk; a loop of links
            raise PhotoError(UnusedPhotoReason.BAD_PATH, quote(path)) from None
        if not file.is_relative_to(self._root):
            raise PhotoError(UnusedPhotoReason.BAD_PATH, f"{quote(path)} is outside the catalogue's directory")
        if not exists:
            raise PhotoError(UnusedPhotoReason.MISSING, f"no file {quote(path)}")
        return name

    def _on_disk(self, path: str) -> str:
        """The path with each part as it is written on disk; as it is where no part of that name is there."""
        folder, parts = self._root, []
        for part in path.split("/"):
            if folder not in self._names:
                self._names[folder] = {}
                with contextlib.suppress(OSError):
                    entries = [entry.name for entry in folder.iterdir()]
                    self._names[folder] = {unicodedata.normalize("NFC", name): name for name in entries}
            parts.append(self._names[folder].get(unicodedata.normalize("NFC", part), part))
            folder = folder / parts[-1]
        return "/".join(parts)


def photo_path(image: object) -> str:
    """The path or URL that a row states. Raises PhotoError if it is neither."""
    try:
        return str(parse_field("image", image, []))
    except BadField as bad:
        raise PhotoError(UnusedPhotoReason.BAD_PATH, bad.detail) from None
