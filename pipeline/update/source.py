"""Where the products of an update come from: a directory, or a gateway. Reads files, and network I/O (gRPC)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.credentials import ApiKey
from lookalike.errors import BadCatalogue
from lookalike.vectors import F32
from pipeline import served_catalogue
from pipeline.catalogue import open_products
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.gateway import Gateway
from pipeline.known_photos import FetchedPhotos, ServedPhotos
from pipeline.photos import PhotoSources
from pipeline.tables.reader import Table, TableOptions
from pipeline.update.options import UpdateOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the products come from."""

    name: str  # For messages.
    table: Table
    photos: Path | None  # The directory that paths of photos are below.
    gateway: str = ""  # Empty: a directory.
    api_key: ApiKey | None = field(default=None, repr=False)  # Of the gateway.

    @property
    def checked_photos(self) -> Path | None:
        """The directory in which stated photos must be; None: they stay as they are stated."""
        return None if self.gateway else self.photos

    def unread_photos(self) -> PhotoSources:
        """For reading the products alone."""
        return PhotoSources(directory=self.photos, as_stated=bool(self.gateway))

    @asynccontextmanager
    async def photo_sources(
        self, store: FeatureStore, features: VectorTable, encoder: str
    ) -> AsyncIterator[PhotoSources]:
        """Where its photos are that this encoder is to encode."""
        if not self.gateway:
            yield PhotoSources(directory=self.photos, known=FetchedPhotos(store.photos(), features))
            return
        roots = ["", *([str(self.photos.resolve())] if self.photos else [])]
        fetched = FetchedPhotos(store.photos(), features, roots)
        loop = asyncio.get_running_loop()
        async with Gateway(self.gateway, self.api_key) as gateway:

            def served(product_ids: Sequence[str]) -> Mapping[str, F32]:  # On the thread that reads the products.
                vectors = served_catalogue.image_vectors(gateway, product_ids, encoder=encoder, dim=features.dim)
                return asyncio.run_coroutine_threadsafe(vectors, loop).result()

            known = ServedPhotos(served, features, fetched, self.photos)
            yield PhotoSources(directory=self.photos, known=known, as_stated=True)


async def open_source(options: UpdateOptions, scratch: Path) -> Source:
    """The catalogue; or the products that the gateway serves, written to a file."""
    if options.catalogue is not None:
        table = open_products(options.catalogue, options.table)
        return Source(name=str(options.catalogue), table=table, photos=options.catalogue)
    async with Gateway(options.gateway, options.api_key) as gateway:
        count = await served_catalogue.save_products(gateway, scratch)
    if not count:
        raise BadCatalogue(f"{options.gateway}: serves no product")
    table = open_products(scratch, TableOptions(revision_unit="none"))  # The gateway has checked the revisions.
    return Source(
        name=options.gateway, table=table, photos=options.photos, gateway=options.gateway, api_key=options.api_key
    )
