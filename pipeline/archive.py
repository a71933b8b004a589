"""Lists and copies photos in a folder, a tar or a zip file; unpacks the table of a zip file. Reads and writes files.

Only regular files are read, and only files below the target are written, whatever names an archive contains.
"""

from __future__ import annotations

import errno
import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

from lookalike.errors import BadCatalogue
from lookalike.limits import MAX_IMAGE_BYTES
from pipeline.tables import reader

_COPY_BYTES = MAX_IMAGE_BYTES + 1  # One byte over the limit: a longer photo is cut here and refused when decoded.
MAX_MEMBERS = 20_000_000
_CHUNK_BYTES = 1 << 20
MAX_TABLE_BYTES = 8 << 30  # Of a table in a zip file, unpacked: ten million products with descriptions.


class PhotoNames:
    """The photos of a folder or archive by name: the whole path, or the last part if no other file has the same.

    Names are compared in Unicode form NFC. Where no name is the same, one that differs only in case is, if there is
    just one.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._paths = {unicodedata.normalize("NFC", file): file for file in files}
        self._last_parts = _unique(self._paths, lambda path: PurePosixPath(path).name)

    def find(self, name: str) -> str:
        """The file that a name means; empty if there is none."""
        key = unicodedata.normalize("NFC", name).removeprefix("./")
        return self._paths.get(key) or self._last_parts.get(key) or self._any_case.get(key.casefold()) or ""

    @cached_property
    def _any_case(self) -> Mapping[str, str | None]:
        last_parts = _unique(self._paths, lambda path: PurePosixPath(path).name.casefold())
        return {**last_parts, **_unique(self._paths, str.casefold)}


def _unique(paths: Mapping[str, str], key: Callable[[str], str]) -> dict[str, str | None]:
    """Files by a key of their path; None where several have the same."""
    files: dict[str, str | None] = {}
    for path, file in paths.items():
        files[key(path)] = None if key(path) in files else file
    return files


def photo_names(source: Path) -> PhotoNames:
    """The files of a folder or an archive by name. Raises BadCatalogue if it cannot be read."""
    return PhotoNames(_list(source))


def copy_photos(source: Path, targets: Mapping[str, Path]) -> None:
    """Copy files of the source to the target path of each. Reads an archive once."""
    for name, data in _read(source, targets):
        try:
            targets[name].parent.mkdir(parents=True, exist_ok=True)
            targets[name].write_bytes(data)
        except OSError as error:
            if error.errno not in _UNWRITABLE_PATH:
                raise


# A name too long for the file system, or both "a" and "a/b" in one archive: only that photo is missing.
_UNWRITABLE_PATH = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def is_inside(name: str) -> bool:
    """Whether a file of this name stays below the folder that it is written to."""
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
    )


def is_zip(path: Path) -> bool:
    """Whether a file is a zip file by its suffix."""
    return path.suffix.lower() == ".zip"


def unpack_table(source: Path, directory: Path) -> Path:
    """Write the only table of a zip file to a directory. Raises BadCatalogue if it has none, several, or a huge one."""
    with _open_zip(source) as archive:
        members = {name: member for name, member in _zip_members(source, archive) if reader.suffix(Path(name))}
        if len(members) != 1:
            names = ", ".join(sorted(members)[:10])
            raise BadCatalogue(
                f"{source}: {f'several tables in it: {names}' if members else f'no table in it: {reader.KINDS}'}"
            )
        ((name, member),) = members.items()
        target = directory / PurePosixPath(name).name
        with archive.open(member) as file, target.open("wb") as output:
            # Counted, since the size that a zip file states may be wrong.
            for number, chunk in enumerate(iter(lambda: file.read(_CHUNK_BYTES), b"")):
                if number * _CHUNK_BYTES >= MAX_TABLE_BYTES:
                    raise BadCatalogue(f"{source}: {name} is too large when unpacked")
                output.write(chunk)
    return target


def _list(source: Path) -> Iterator[str]:
    if source.is_dir():
        return _list_folder(source)
    return _list_zip(source) if is_zip(source) else _list_tar(source)


def _read(source: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of photos, as many as are copied. Raises BadCatalogue where the source is damaged."""
    if source.is_dir():
        return _read_folder(source, names)
    return _read_zip(source, names) if is_zip(source) else _read_tar(source, names)


def _list_folder(source: Path) -> Iterator[str]:
    for folder, _, files in os.walk(source):  # does not follow links to folders
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(source).as_posix()


def _read_folder(source: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        with (source / name).open("rb") as file:
            yield name, file.read(_COPY_BYTES)


def _list_tar(source: Path) -> Iterator[str]:
    with _open_tar(source) as tar:
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise BadCatalogue(f"{source}: more than {MAX_MEMBERS} files")
            if member.isreg() and is_inside(name := _without_dot_slash(member.name)):
                yield name


def _read_tar(source: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    remaining = set(names)
    with _open_tar(source) as tar:
        for member in tar:
            if not remaining:
                return
            if member.isreg() and (name := _without_dot_slash(member.name)) in remaining:
                remaining.discard(name)
                if (file := tar.extractfile(member)) is not None:
                    yield name, file.read(_COPY_BYTES)


def _without_dot_slash(name: str) -> str:
    return name.removeprefix("./")


def _list_zip(source: Path) -> Iterator[str]:
    with _open_zip(source) as archive:
        for name, _ in _zip_members(source, archive):
            yield name


def _read_zip(source: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    with _open_zip(source) as archive:
        members = dict(_zip_members(source, archive))
        for name in names:
            with archive.open(members[name]) as file:
                data = file.read(_COPY_BYTES)
            yield name, data


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The regular files, by their names, without what macOS adds to each."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise BadCatalogue(f"{source}: more than {MAX_MEMBERS} files")
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)  # Unix's; 0 in archives from elsewhere.
        name = _without_dot_slash(_zip_name(member))
        parts = PurePosixPath(name).parts
        hidden = "__MACOSX" in parts or (parts and parts[-1].startswith("."))
        if not member.is_dir() and kind in (0, stat.S_IFREG) and is_inside(name) and not hidden:
            yield name, member


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name. One not marked as UTF-8 is so all the same, as on macOS, or Shift-JIS, as on Windows."""
    utf8_flag = 0x800
    if member.flag_bits & utf8_flag or member.filename.isascii():
        return member.filename
    data = member.filename.encode("cp437")  # How zipfile decoded it.
    for encoding in ("utf-8", "cp932"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return member.filename


# What tarfile and zipfile raise for damaged files; RuntimeError: for encrypted ones and unknown compressions;
# TypeError: for a gzip file that ends within its header.
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError, ValueError,
    TypeError, LookupError, ArithmeticError,
)  # fmt: skip


@contextmanager
def _open_zip(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except _DAMAGED as error:
        raise BadCatalogue(f"{source}: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _open_tar(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r|*") as tar:
            yield tar
    except _DAMAGED as error:
        raise BadCatalogue(f"{source}: {getattr(error, 'strerror', None) or error}") from None
