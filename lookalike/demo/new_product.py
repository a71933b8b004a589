"""The demo's new product: published while the system runs, until a search finds it. File and network I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageEnhance, ImageOps

from lookalike.changes import remove_change, upsert_change
from lookalike.client import Client
from lookalike.errors import NotFound, Unavailable
from lookalike.stream import event as events
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.catalog_pb2 import Change
from lookalike.v1.search_pb2 import SearchResponse
from lookalike.v1.types_pb2 import Product

PRODUCT_ID: Final = "demo-new"
_TIMEOUT_S: Final = 60.0  # The first photo of a worker waits for the model.
_PAUSE_S: Final = 0.005
_LIMIT: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProduct:
    """A product that the catalogue does not have."""

    product: Product
    photo: Path | None

    @property
    def photo_root(self) -> str:
        return "" if self.photo is None else str(self.photo.parent)


def draw_new_product(products: Sequence[Product], catalogue: Path, photos: Path) -> NewProduct | None:
    """A product like one of these, the first with a photo that can be read, and a photo that nobody has seen.

    photos: the directory for the photo. None: the catalogue has no product with a title.
    """
    for like in products:
        photo = photos / f"new-{int(unix_time_s())}.jpg"
        if like.image and like.title and _redraw(catalogue / like.image, photo):
            return NewProduct(product=_like(like, image=photo.name), photo=photo)
    like_words = next((each for each in products if each.title), None)
    return None if like_words is None else NewProduct(product=_like(like_words, image=""), photo=None)


@contextmanager
def published(stream: StreamSettings, client: Client, new: NewProduct) -> Iterator[tuple[SearchResponse, float]]:
    """Publish the product; yields a search that finds it, and the seconds until it did. Removes it again.

    Raises Unavailable if it is not found in time.
    """
    change = upsert_change(new.product, revision=_revision(), encode=True)
    started_s = time.monotonic()
    asyncio.run(_publish(stream, change, new.photo_root))
    try:
        while True:
            try:
                client.search(product_id=PRODUCT_ID, limit=1)
                break
            except NotFound:
                if time.monotonic() > started_s + _TIMEOUT_S:
                    raise Unavailable(f"the new product is not found after {_TIMEOUT_S:g} s") from None
                time.sleep(_PAUSE_S)
        found_s = time.monotonic() - started_s
        query = client.search(image=new.photo, limit=_LIMIT) if new.photo else client.search(text=new.product.title)
        yield query, found_s
    finally:
        asyncio.run(_publish(stream, remove_change(PRODUCT_ID, revision=_revision()), ""))
    gone_by_s = time.monotonic() + _TIMEOUT_S
    while any(client.exists([PRODUCT_ID])) and time.monotonic() < gone_by_s:
        time.sleep(_PAUSE_S)


async def _publish(settings: StreamSettings, change: Change, photo_root: str) -> None:
    stream = await open_redis_stream(settings)
    try:
        event = events.new_event(change, source="demo", published_at_s=unix_time_s(), photo_root=photo_root)
        await stream.append([event])
    finally:
        await stream.close()


def _like(product: Product, *, image: str) -> Product:
    new = Product(id=PRODUCT_ID, title=product.title, category=product.category, currency=product.currency, image=image)
    if product.HasField("price"):
        new.price = product.price
    return new


def _redraw(source: Path, photo: Path) -> bool:
    """Write a photo like another: mirrored, a little brighter. False: that cannot be read."""
    try:
        with Image.open(source) as image:
            changed = ImageEnhance.Brightness(ImageOps.mirror(image.convert("RGB"))).enhance(1.1)
        photo.parent.mkdir(parents=True, exist_ok=True)
        changed.save(photo, quality=90)
    except (OSError, ValueError):
        return False
    return True


def _revision() -> int:
    return int(unix_time_s() * 1000)
