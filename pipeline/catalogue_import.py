"""Makes a catalogue of a table and photos from elsewhere. Reads and writes files."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from encoders.image.isolated_decoder import Decode, image_decoder
from encoders.image.signature import DEFAULT_INPUT_PX
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue, BadSettings
from lookalike.printable import quote
from lookalike.product_rules import BadField, CatalogueProduct, RejectReason, is_photo_url
from lookalike.runtime.ordered_map import ordered_map
from pipeline import archive, catalogue
from pipeline.catalogue_report import CatalogueReport
from pipeline.column_mapping import ColumnMapping, Note
from pipeline.photos import open_photo
from pipeline.product import PhotoError, UnusedPhoto, UnusedPhotoReason, parse_row
from pipeline.tables.reader import DEFAULT_OPTIONS, Table, TableOptions, open_table, require_columns
from pipeline.tables.record import BrokenRecord
from pipeline.variants import merge_variants, with_inherited_cells

_PROGRESS_ROWS = 1000
_DECODERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """What is imported: a table, how its columns map to a product's fields, and where its photos are."""

    table: Path  # Or a zip file with one table, and its photos unless `images` says otherwise.
    mapping: ColumnMapping
    match_loosely: bool = False  # Whether columns may differ from the mapping's in case and spaces, as for presets.
    options: TableOptions = DEFAULT_OPTIONS
    images: Path | None = None
    require_image: bool = False  # Reject rows whose photo cannot be used, instead of importing them without one.


class _Candidate(NamedTuple):
    """A valid product whose photo is not copied and decoded yet."""

    line: int
    product: CatalogueProduct  # `image` is where its photo goes in the catalogue, or its URL.
    source_photo: str = ""  # The photo's name in the source; empty: no file.
    missing_photo: PhotoError | None = None  # Why the photo that the row states is not there.

    @property
    def has_photo(self) -> bool:
        return bool(self.product.image)


def import_catalogue(
    source: ImportSource, directory: Path, report: CatalogueReport, *, limit: int | None = None, quiet: bool = True
) -> None:
    """Write the first `limit` valid products of a source as a new catalogue, and count them in the report.

    Nothing is written if the import fails.
    """
    with contextlib.ExitStack() as stack:
        if archive.is_zip(source.table):
            unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lookalike-")))
            images = source.images or (source.table if source.mapping.image else None)
            source = dataclasses.replace(source, table=archive.unpack_table(source.table, unpacked), images=images)
        if source.images and not source.mapping.image:
            raise BadSettings("--images needs --image: the file name of a photo, with columns in braces")
        table, source = _open_table(source)
        for notice in table.notices:
            report.notice(notice)
        photos = archive.photo_names(source.images) if source.images else None
        catalogue.create_directory(directory)
        count = stack.enter_context(progress_bar("importing, thousands of products", quiet=quiet))
        try:
            decode = stack.enter_context(image_decoder(_DECODERS, DEFAULT_INPUT_PX))
            importer = _Importer(source, directory, report, photos, decode)
            catalogue.write(directory, _counted(importer.products(table, limit), count))
        except BaseException:
            shutil.rmtree(directory / catalogue.IMAGES, ignore_errors=True)
            raise


def _open_table(source: ImportSource) -> tuple[Table, ImportSource]:
    """Open the table, with its own names of the columns in the mapping. Raises BadSettings if it lacks one."""
    wanted = source.mapping.columns()
    table = open_table(source.table, source.options, wanted=() if source.match_loosely else wanted)
    if source.match_loosely and table.columns is not None:
        source = dataclasses.replace(source, mapping=source.mapping.matched_to(table.columns))
    require_columns(table, source.mapping.columns(), BadSettings)
    return table, source


def _counted(products: Iterable[CatalogueProduct], count: Callable[[], None]) -> Iterator[CatalogueProduct]:
    for number, product in enumerate(products, 1):
        if number % _PROGRESS_ROWS == 0:
            count()
        yield product


@dataclass(slots=True)
class _Importer:
    """One import: from rows to products whose photos are copied."""

    source: ImportSource
    directory: Path
    report: CatalogueReport
    photos: archive.PhotoNames | None
    decode: Decode
    notes: Counter[Note] = dataclasses.field(default_factory=Counter)
    photo_urls: int = 0
    unusable_files: set[Path] = dataclasses.field(default_factory=set)  # Copied photos; several products may have one.

    def products(self, table: Table, limit: int | None) -> Iterator[CatalogueProduct]:
        """The products of the catalogue in order. Raises BadCatalogue at the end if too many rows were rejected."""
        kept = 0
        for candidate, photo_error in self._with_photos(islice(self._unique(self._grouped(table)), limit)):
            if (product := self._finished(candidate, photo_error)) is not None:
                kept += 1
                yield product
        for file in self.unusable_files:
            with contextlib.suppress(OSError):  # It may never have been written.
                file.unlink()
        self.report.notice_assumptions(self.notes)
        self._check_photo_option()
        self.report.over_limit = (
            self.report.rows - kept - self.report.rejected - self.report.filtered - self.report.merged
        )
        self.report.check_rejected()
        if not kept:
            raise BadCatalogue(f"{self.source.table.name}: no valid product in it")

    def _candidates(self, table: Table) -> Iterator[tuple[str, _Candidate]]:
        """The valid rows with the key of their group; empty: the row is a product of its own."""
        mapping, report = self.source.mapping, self.report
        first_rows: dict[str, Mapping[str, object]] = {}
        for record in table.records():
            report.rows += 1
            if isinstance(record, BrokenRecord):
                self._reject(record.line, {}, BadField("", RejectReason.BROKEN_ROW, record.detail))
                continue
            cells, key = record.fields, ""
            if mapping.group and (key := mapping.group_of(cells)):
                cells = with_inherited_cells(cells, first_rows.setdefault(key, cells))
            if mapping.where and not mapping.accepts(cells):
                report.filtered += 1
                continue
            fields: Mapping[str, object] = {}
            notices: list[str] = []
            try:
                fields = mapping.product_fields(cells, self.notes)
                product = parse_row(fields, notices, max_revision=table.max_revision)
                candidate = self._candidate(record.line, cells, product)
            except BadField as bad:
                self._reject(record.line, fields, bad)
                continue
            for notice in notices:
                report.notice(f"{self.source.table.name}:{record.line}: {notice}")
            yield key, candidate

    def _grouped(self, table: Table) -> Iterator[_Candidate]:
        """One candidate for each group, in the order of their first rows, when all rows are read."""
        if not self.source.mapping.group:
            for _, candidate in self._candidates(table):
                yield candidate
            return
        groups: dict[str, _Candidate] = {}
        for key, candidate in self._candidates(table):
            earlier = groups.get(key) if key else None
            if earlier is None:
                groups[key or f"\0{candidate.line}"] = candidate  # No key has a NUL.
                continue
            self.report.merged += 1
            photos = (earlier.has_photo, candidate.has_photo)
            product = merge_variants(earlier.product, candidate.product, with_photos=photos)
            with_photo = candidate if photos == (False, True) else earlier
            groups[key] = with_photo._replace(product=product)
        yield from groups.values()

    def _unique(self, candidates: Iterable[_Candidate]) -> Iterator[_Candidate]:
        """The candidates but those with the id of an earlier one."""
        lines_by_id: dict[str, int] = {}
        for candidate in candidates:
            line = lines_by_id.setdefault(candidate.product.id, candidate.line)
            if line == candidate.line:
                yield candidate
            else:
                bad = BadField("id", RejectReason.DUPLICATE_ID, f"line {line} has the same id")
                self._reject(candidate.line, {"id": candidate.product.id}, bad)

    def _candidate(self, line: int, cells: Mapping[str, object], product: CatalogueProduct) -> _Candidate:
        """With the photo that the row states: a file of the source, or a URL."""
        name = self.source.mapping.image_name(cells)
        if not name:
            return self._without_photo(line, product, None)
        url = name if is_photo_url(name) else ""
        stem = PurePosixPath(unquote(urlsplit(url).path)).name if url else name
        if self.photos is not None and (file := self.photos.find(stem)):
            # The folder "images" of an archive becomes the folder "images" of the catalogue, not "images/images".
            image = f"{catalogue.IMAGES}/{file.removeprefix(f'{catalogue.IMAGES}/')}"
            return _Candidate(line, dataclasses.replace(product, image=image), file)
        if url:
            self.photo_urls += 1
            return self._with_url(line, product, url)
        if not archive.is_inside(name):
            return self._without_photo(line, product, PhotoError(UnusedPhotoReason.BAD_PATH, quote(name)))
        where = f"in {self.source.images}" if self.source.images else "here: --images says where photos are"
        error = PhotoError(UnusedPhotoReason.MISSING, f"no {quote(name)} {where}")
        return self._without_photo(line, product, error)

    def _with_url(self, line: int, product: CatalogueProduct, url: str) -> _Candidate:
        try:
            return _Candidate(line, dataclasses.replace(product, image=catalogue.photo_path(url)))
        except PhotoError as error:
            return self._without_photo(line, product, error)

    def _without_photo(self, line: int, product: CatalogueProduct, error: PhotoError | None) -> _Candidate:
        if self.source.require_image:
            detail = error.detail if error else "the row states no photo"
            raise BadField("image", RejectReason.MISSING_IMAGE, detail)
        return _Candidate(line, product, "", error)

    def _with_photos(self, candidates: Iterable[_Candidate]) -> Iterator[tuple[_Candidate, PhotoError | None]]:
        """Copy and decode the photo of each candidate; with what is wrong with it."""
        images = self.source.images
        if images is None:
            return ((candidate, None) for candidate in candidates)
        if not images.is_dir():  # An archive is read once, so that all names must be known.
            candidates = list(candidates)
            archive.copy_photos(
                images, {each.source_photo: self._target(each) for each in candidates if each.source_photo}
            )
        else:
            candidates = self._copied(images, candidates)

        def decode_copy(candidate: _Candidate) -> PhotoError | None:
            if not candidate.source_photo:
                return None
            try:
                open_photo(self._target(candidate), self.decode)
            except PhotoError as error:
                return error
            return None

        return ordered_map(decode_copy, candidates, workers=_DECODERS, ahead=16 * _DECODERS)

    def _copied(self, images: Path, candidates: Iterable[_Candidate]) -> Iterator[_Candidate]:
        """The candidates, each after its photo was copied from a folder. Several may share one."""
        copied: set[str] = set()
        for candidate in candidates:
            if (name := candidate.source_photo) and name not in copied:
                copied.add(name)
                archive.copy_photos(images, {name: self._target(candidate)})
            yield candidate

    def _target(self, candidate: _Candidate) -> Path:
        return self.directory / candidate.product.image

    def _finished(self, candidate: _Candidate, photo_error: PhotoError | None) -> CatalogueProduct | None:
        """Count a product and what is wrong with its photo; None: it is rejected for its photo."""
        product, report = candidate.product, self.report
        if photo_error is not None:
            self.unusable_files.add(self._target(candidate))
            product = dataclasses.replace(product, image="")
            if self.source.require_image:
                self._reject(
                    candidate.line,
                    {"id": product.id},
                    BadField("image", RejectReason.BROKEN_IMAGE, photo_error.detail),
                )
                return None
        elif candidate.missing_photo is not None:
            photo_error = candidate.missing_photo
        elif is_photo_url(product.image):
            photo_error = PhotoError(UnusedPhotoReason.NOT_FETCHED, product.image)
        if photo_error is not None:
            report.note_unused_photo(
                UnusedPhoto(
                    file=self.source.table.name,
                    line=candidate.line,
                    id=product.id,
                    reason=photo_error.reason,
                    detail=photo_error.detail,
                )
            )
        has_photo = bool(candidate.source_photo and product.image)
        report.count_product(product, has_photo=has_photo, file=self.source.table.name, line=candidate.line)
        return product

    def _reject(self, line: int, fields: Mapping[str, object], bad: BadField) -> None:
        self.report.reject(catalogue.rejected_row(self.source.table.name, line, fields, bad))

    def _check_photo_option(self) -> None:
        """Raise BadSettings if a template of photos names files, and nothing says where they are."""
        missing = self.report.unused_reasons[UnusedPhotoReason.MISSING]
        if missing and self.photos is None and not self.photo_urls and not self.source.match_loosely:
            raise BadSettings("--image names files: --images says where they are")
