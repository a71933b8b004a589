"""Photos in a folder or a tar file, and copies of the wanted ones. Reads and writes files.

Only regular files are ever read, and nothing is written but below the target, whatever an archive's names say.
"""

from __future__ import annotations

import errno
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from lookalike.errors import BadCatalogue
from lookalike.limits import MAX_IMAGE_BYTES

_COPY_BYTES = MAX_IMAGE_BYTES + 1  # The bound of a photo and one more: what is longer is refused when it is decoded.
MAX_MEMBERS = 20_000_000


def names(source: Path) -> dict[str, str]:
    """What may be asked for -> the file it is: its whole path, and its last part where that is one file's alone."""
    files = list(_folder(source) if source.is_dir() else _tar_names(source))
    last_parts: dict[str, str | None] = {}
    for file in files:
        last = PurePosixPath(file).name
        last_parts[last] = None if last in last_parts else file
    return {last: file for last, file in last_parts.items() if file is not None} | {file: file for file in files}


def copy(source: Path, wanted: Mapping[str, Path]) -> None:
    """Copy files of the source to the paths given for them. One pass through a tar file."""
    for name, opened in _folder_files(source, wanted) if source.is_dir() else _tar_files(source, wanted):
        data = opened.read(_COPY_BYTES)
        try:
            wanted[name].parent.mkdir(parents=True, exist_ok=True)
            wanted[name].write_bytes(data)
        except OSError as error:
            if error.errno not in _NO_SUCH_PATH:
                raise


# A name too long for the disk, or "a" and "a/b" in one archive: that photo alone is missing.
_NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def inside(name: str) -> bool:
    """Whether a file of that name stays below the folder that it is written to."""
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
    )


def _folder(source: Path) -> Iterator[str]:
    for folder, _, files in os.walk(source):  # follows no link to another folder
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(source).as_posix()


def _folder_files(source: Path, wanted: Mapping[str, Path]) -> Iterator[tuple[str, IO[bytes]]]:
    for name in wanted:
        with (source / name).open("rb") as file:
            yield name, file


def _tar_names(source: Path) -> Iterator[str]:
    with _tar(source) as tar:
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise BadCatalogue(f"{source}: more than {MAX_MEMBERS} members")
            if member.isreg() and inside(name := _plain(member.name)):
                yield name


def _tar_files(source: Path, wanted: Mapping[str, Path]) -> Iterator[tuple[str, IO[bytes]]]:
    left = set(wanted)
    with _tar(source) as tar:
        for member in tar:
            if not left:
                return
            if member.isreg() and (name := _plain(member.name)) in left:
                left.discard(name)
                if (file := tar.extractfile(member)) is not None:
                    yield name, file


def _plain(name: str) -> str:
    return name.removeprefix("./")


@contextmanager
def _tar(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r|*") as tar:
            yield tar
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise BadCatalogue(f"{source}: {getattr(error, 'strerror', None) or error}") from None
