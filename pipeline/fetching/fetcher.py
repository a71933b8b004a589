"""Fetches the photo of a product from where its field `image` says: the web, an object store, a directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.printable import quote
from pipeline.fetching.addresses import Network
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.files import DirectoryPhotos, StoredPhotos
from pipeline.fetching.photo import FetchedPhoto, NotModified, Validators
from pipeline.fetching.web import WebPhotos


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Where photos may come from, and the bounds of fetching one."""

    directories: Sequence[Path] = ()  # Of photos that products state by their path; the first where no other is named.
    stores: Sequence[str] = ("s3", "gs")  # Schemes of object stores that may be read.
    allow_networks: Sequence[Network] = ()  # Beside all public addresses.
    timeout_s: float = 20.0
    max_in_flight: int = 64  # Requests to web servers; files and objects have 16 threads each.
    per_host: int = 8


class PhotoFetcher:
    """Fetches photos of every kind; for use on one event loop. Close it after use."""

    def __init__(self, settings: FetchSettings) -> None:
        timeout_s = settings.timeout_s
        self._web = WebPhotos(
            timeout_s=timeout_s,
            max_in_flight=settings.max_in_flight,
            per_host=settings.per_host,
            allow_networks=settings.allow_networks,
        )
        self._stores = StoredPhotos(settings.stores, timeout_s=timeout_s)
        self._directories = [DirectoryPhotos(each, timeout_s=timeout_s) for each in settings.directories]

    async def __call__(
        self, source: str, known: Validators | None = None, *, root: str = ""
    ) -> FetchedPhoto | NotModified:
        """Fetch a photo by its URL or path, unless it is as `known` says. Raises FetchError.

        root: the directory that a path is below, one of the settings' or inside one, or a URL of an object store.
        """
        if "://" not in source and "://" in root:
            source = f"{root.rstrip('/')}/{source}"
        if source.lower().startswith(("http://", "https://")):
            return await self._web.fetch(source, known)
        if "://" in source:
            return await self._stores.fetch(source, known)
        if not self._directories:
            raise FetchError(FetchCause.BAD_ADDRESS, f"{quote(source)} is a path, and no directory of photos is set")
        for directory in self._directories:
            if (path := directory.relative(root, source)) is not None:
                return await directory.fetch(path, known)
        raise FetchError(FetchCause.BLOCKED, f"{quote(root)} is no directory that photos are read from")

    async def close(self) -> None:
        await self._web.close()
