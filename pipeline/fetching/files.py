"""Reads photos from a directory and from object stores, within the same bounds as from the web. Does I/O on threads."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec

from lookalike.limits import MAX_IMAGE_BYTES
from lookalike.printable import quote
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.photo import NOT_MODIFIED, FetchedPhoto, NotModified, Validators

T = TypeVar("T")

_THREADS: Final = 16  # A thread that hangs in a store holds its place until it returns.


class DirectoryPhotos:
    """Photos in files below a directory, by paths relative to it."""

    def __init__(self, directory: Path, *, timeout_s: float) -> None:
        self._root = directory.resolve()
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(_THREADS)

    def relative(self, root: str, path: str) -> str | None:
        """The path below this directory of one below `root`; None: `root` is not inside. Nothing is read."""
        if not root:
            return path
        inside = Path(os.path.normpath(root))
        return str(inside.relative_to(self._root) / path) if inside.is_relative_to(self._root) else None

    async def fetch(self, path: str, known: Validators | None = None) -> FetchedPhoto | NotModified:
        """Read a photo, unless its file is as it was. Raises FetchError."""
        return await _on_thread(partial(self._read, path, known), self._places, self._timeout_s, path)

    def _read(self, path: str, known: Validators | None) -> FetchedPhoto | NotModified:
        try:
            file = (self._root / path).resolve()
            if not file.is_relative_to(self._root):
                raise FetchError(FetchCause.BLOCKED, f"{quote(path)} is outside the directory of photos")
            # Not a pipe, nor a device, which would never end: O_NONBLOCK, or opening a pipe waits for its writer.
            with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
                before = os.fstat(opened.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise FetchError(FetchCause.NOT_A_PHOTO, f"{quote(path)} is no file")
                if _validators(before) == known:
                    return NOT_MODIFIED
                _check_size(before.st_size, path)
                data = opened.read(MAX_IMAGE_BYTES + 1)
                if _validators(os.fstat(opened.fileno())) != _validators(before) or len(data) != before.st_size:
                    raise FetchError(FetchCause.CHANGED, f"{quote(path)} was written while it was read")
        except FileNotFoundError:
            raise FetchError(FetchCause.NOT_FOUND, f"there is no file {quote(path)}") from None
        except PermissionError:
            raise FetchError(FetchCause.FORBIDDEN, f"{quote(path)} may not be read") from None
        except (OSError, RuntimeError, ValueError) as error:  # A name too long for the disk, a loop of links.
            detail = getattr(error, "strerror", None) or error
            raise FetchError(FetchCause.BAD_ADDRESS, f"{quote(path)}: {detail}") from None
        return FetchedPhoto(data, _validators(before))


class StoredPhotos:
    """Photos in object stores, by URLs of the schemes that are allowed: "s3", "gs", …

    options: by scheme, what its filesystem takes, say {"s3": {"endpoint_url": …}}; credentials come from where the
    store's own library looks for them.
    """

    def __init__(
        self, schemes: Sequence[str], *, timeout_s: float, options: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self._schemes = frozenset(schemes)
        self._options = options or {}
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(_THREADS)

    async def fetch(self, url: str, known: Validators | None = None) -> FetchedPhoto | NotModified:
        """Read a photo, unless its object is as it was. Raises FetchError."""
        return await _on_thread(partial(self._read, url, known), self._places, self._timeout_s, url)

    def _read(self, url: str, known: Validators | None) -> FetchedPhoto | NotModified:
        scheme = url.partition("://")[0].lower()
        if scheme not in self._schemes:
            raise FetchError(FetchCause.BLOCKED, f"photos are not fetched from {quote(scheme)}")
        try:
            options = {"use_listings_cache": False, **self._options.get(scheme, {})}
            filesystem, path = fsspec.url_to_fs(url, **options)
            found = filesystem.info(path)
            if found.get("type") != "file":
                raise FetchError(FetchCause.NOT_A_PHOTO, f"{quote(url)} is no object")
            etag, modified = str(found.get("ETag") or found.get("etag") or ""), str(found.get("LastModified") or "")
            validators = Validators(etag=etag, modified=modified, size=int(found.get("size") or 0))
            if (etag or modified) and validators == known:
                return NOT_MODIFIED
            _check_size(validators.size, url)
            data = bytes(filesystem.cat_file(path, start=0, end=MAX_IMAGE_BYTES + 1))
            if len(data) != validators.size:
                raise FetchError(FetchCause.CHANGED, f"{quote(url)} was written while it was read")
        except FileNotFoundError:
            raise FetchError(FetchCause.NOT_FOUND, f"there is no object {quote(url)}") from None
        except PermissionError:
            raise FetchError(FetchCause.FORBIDDEN, f"{quote(url)} may not be read") from None
        except (ImportError, ValueError) as error:
            raise FetchError(FetchCause.BAD_ADDRESS, f"{quote(url)}: {error}") from None
        except Exception as error:  # Each store has its own errors.
            if isinstance(error, FetchError):
                raise
            raise FetchError(FetchCause.UNREACHABLE, f"{quote(url)}: {type(error).__name__}") from None
        return FetchedPhoto(data, validators)


def _validators(status: os.stat_result) -> Validators:
    return Validators(
        etag=f"{status.st_dev:x}-{status.st_ino:x}", modified=str(status.st_mtime_ns), size=status.st_size
    )


def _check_size(size_bytes: int, name: str) -> None:
    if size_bytes > MAX_IMAGE_BYTES:
        raise FetchError(
            FetchCause.TOO_LARGE, f"{quote(name)} has {size_bytes:,} bytes, at most {MAX_IMAGE_BYTES:,} are allowed"
        )
    if not size_bytes:
        raise FetchError(FetchCause.NOT_A_PHOTO, f"{quote(name)} is empty")


async def _on_thread(read: Callable[[], T], places: asyncio.Semaphore, timeout_s: float, name: str) -> T:
    """Run `read` on a thread; its place is free when it returns, even if nobody waits for it any more."""

    await places.acquire()
    task = asyncio.ensure_future(asyncio.to_thread(read))
    task.add_done_callback(lambda done: places.release())
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(task)
    except TimeoutError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise FetchError(FetchCause.TIMED_OUT, f"{quote(name)} took more than {timeout_s:g} s") from None
