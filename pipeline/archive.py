"""Lists and copies photos in a folder or a tar file. Reads and writes files.

Only regular files are read, and only files below the target are written, whatever names an archive contains.
"""

from __future__ import annotations

import errno
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from lookalike.errors import BadCatalogue
from lookalike.limits import MAX_IMAGE_BYTES

_COPY_BYTES = MAX_IMAGE_BYTES + 1  # One byte over the limit: a longer photo is cut here and refused when decoded.
MAX_MEMBERS = 20_000_000


def photo_names(source: Path) -> dict[str, str]:
    """Map names to files: each file by its whole path, and by its last part if no other file has the same."""
    files = list(_list_folder(source) if source.is_dir() else _list_tar(source))
    file_by_last_part: dict[str, str | None] = {}
    for file in files:
        last = PurePosixPath(file).name
        file_by_last_part[last] = None if last in file_by_last_part else file
    return {last: file for last, file in file_by_last_part.items() if file is not None} | {file: file for file in files}


def copy_photos(source: Path, targets: Mapping[str, Path]) -> None:
    """Copy files of the source to the target path of each. Reads a tar file once."""
    for name, file in _open_in_folder(source, targets) if source.is_dir() else _open_in_tar(source, targets):
        data = file.read(_COPY_BYTES)
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


def _list_folder(source: Path) -> Iterator[str]:
    for folder, _, files in os.walk(source):  # does not follow links to folders
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(source).as_posix()


def _open_in_folder(source: Path, names: Iterable[str]) -> Iterator[tuple[str, IO[bytes]]]:
    for name in names:
        with (source / name).open("rb") as file:
            yield name, file


def _list_tar(source: Path) -> Iterator[str]:
    with _open_tar(source) as tar:
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise BadCatalogue(f"{source}: more than {MAX_MEMBERS} files")
            if member.isreg() and is_inside(name := _without_dot_slash(member.name)):
                yield name


def _open_in_tar(source: Path, names: Iterable[str]) -> Iterator[tuple[str, IO[bytes]]]:
    remaining = set(names)
    with _open_tar(source) as tar:
        for member in tar:
            if not remaining:
                return
            if member.isreg() and (name := _without_dot_slash(member.name)) in remaining:
                remaining.discard(name)
                if (file := tar.extractfile(member)) is not None:
                    yield name, file


def _without_dot_slash(name: str) -> str:
    return name.removeprefix("./")


@contextmanager
def _open_tar(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r|*") as tar:
            yield tar
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise BadCatalogue(f"{source}: {getattr(error, 'strerror', None) or error}") from None
