"""Encodes anew the products that changed while an update ran. Network I/O to gateways; reads files of the version.

A version that begins to serve takes over every change that is newer than its own products, but no vectors of an encoder
that was trained anew. What is different from the version as it was built is therefore encoded again, by a patch of the
product's own words with a revision one greater, which any newer change beats.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from index.storage.attributes import Attributes, open_attributes
from index.storage.names import ATTRIBUTES
from lookalike.credentials import ApiKey
from lookalike.errors import (
    CallerError,
    FailedPrecondition,
    LookalikeError,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
)
from lookalike.product_rules import has_word
from lookalike.releases import version
from lookalike.releases.names import shard_name
from lookalike.runtime.partition import shard_of
from lookalike.spaces import space_name
from lookalike.v1.catalog_pb2 import Change, ChangeResponse, GetResponse, PatchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, Space, SpaceVector
from pipeline.gateway import Gateway
from pipeline.worker.change_writer import ChangeWriter

_IN_A_ROW = 10  # Answers by the new version before a gateway counts as moved: an address may have several behind it.
_POLL_S = 0.5
_AT_ONCE = 4  # Products: shoppers are served beside, and 24 made their p99 several times as long for a second.
_ATTEMPTS = 8  # To be applied, where other changes of the product come at the same time.
_PAUSE_S = 1.0


class Products(Protocol):
    """What of a gateway is needed; as `Gateway` and `ChangeWriter` give it."""

    async def get(self, product_id: str, vectors: Sequence[Space.ValueType]) -> GetResponse: ...

    async def enqueue(self, change: Change) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ReencodeOptions:
    """wait_s: for the gateways to serve the version, and for encoders that are not yet those of the version.

    settle_s: between that and the first look, in which calls end that began with the version before.
    """

    wait_s: float = 900.0
    settle_s: float = 5.0
    api_key: ApiKey | None = field(default=None, repr=False)  # With the scopes read and write.


@dataclass(slots=True)
class ReencodeReport:
    """What was found and done."""

    changed: int = 0  # Products with other words or another photo than those that the version was built with.
    encoded: int = 0
    enqueued: int = 0  # For a worker, which has the photo.
    gone: int = 0  # Removed meanwhile, or with nothing to encode.
    failed: Counter[str] = field(default_factory=Counter)  # By reason.


class BuiltProducts:
    """The products of a version as it was built, mapped from its files."""

    def __init__(self, location: Path, name: str) -> None:
        """Raises BadArtifact."""
        manifest = version.read_manifest(location, name)
        self.has_images = any(space.name == space_name(SPACE_IMAGE) for space in manifest.spaces)
        self._shards: list[Attributes] = [
            open_attributes(location / name / shard_name(shard) / ATTRIBUTES) for shard in range(manifest.shards)
        ]

    def is_changed(self, product: Product) -> bool:
        """Whether the product is not in the version, or of an older revision with other words or another photo."""
        attributes = self._shards[shard_of(product.id, len(self._shards))]
        if (row := attributes.ids.find(product.id.encode())) is None:
            return True
        if product.revision <= int(attributes.revisions[row]):
            return False
        built = Product.FromString(attributes.products[row])
        before = (built.title, attributes.description(row), built.image)
        return before != (product.title, product.description, product.image)


async def wait_until_served(versions: Sequence[Callable[[], Awaitable[str]]], name: str, wait_s: float) -> None:
    """Wait until gateways serve a version, each by a call for what it serves. Raises Unavailable."""
    give_up_s = time.monotonic() + wait_s
    for ask in versions:
        in_a_row, last = 0, ""
        while in_a_row < _IN_A_ROW:
            try:
                last = await ask()
            except LookalikeError as error:
                last = str(error)
            in_a_row = in_a_row + 1 if last == name else 0
            if not in_a_row:
                if time.monotonic() > give_up_s:
                    raise Unavailable(f"version {name} is not served after {wait_s:g} s, but: {last}")
                await asyncio.sleep(_POLL_S)


class Reencoder:
    """Encodes products anew.

    write: makes a change. wait_s: how long it is tried again while none can be encoded.
    """

    def __init__(
        self,
        products: Products,
        write: Callable[[Change], Awaitable[ChangeResponse]],
        *,
        has_images: bool,
        wait_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._products = products
        self._write = write
        self._spaces = [SPACE_IMAGE] if has_images else []
        self._wait_s = wait_s
        self._sleep = sleep
        self._clock = clock
        self._last_success_s = clock()
        self.report = ReencodeReport()

    async def __call__(self, product_id: str) -> None:
        """Encode a product as it is now; what cannot be done is in the report."""
        self.report.changed += 1
        while True:
            try:
                await self._reencode(product_id)
                self._last_success_s = self._clock()
                return
            except NotFound:
                self.report.gone += 1
                return
            except (ServiceError, FailedPrecondition) as error:
                if self._clock() > self._last_success_s + self._wait_s:
                    self.report.failed[str(error)] += 1
                    return
                await self._sleep(error.retry_after_s if isinstance(error, Overloaded) else _PAUSE_S)
            except CallerError as error:
                self.report.failed[str(error)] += 1
                return

    async def _reencode(self, product_id: str) -> None:
        for _ in range(_ATTEMPTS):
            response = await self._products.get(product_id, self._spaces)
            product, image = response.product, next(iter(response.vectors), None)
            if self._spaces and product.image and image is None and await self._is_enqueued(product):
                self.report.enqueued += 1
                return
            if (patch := _patch(product, image)) is None:
                self.report.gone += 1
                return
            if (await self._write(Change(patch=patch))).applied:
                self.report.encoded += 1
                return
        self.report.failed["it changed with every attempt"] += 1

    async def _is_enqueued(self, product: Product) -> bool:
        """Leave a product whose photo has no vector to a worker. Returns False where there is no stream."""
        patch = _words(product)
        patch.product.image = product.image
        patch.update_mask.paths.append("image")
        try:
            await self._products.enqueue(Change(patch=patch))
        except FailedPrecondition:
            return False
        return True


def _words(product: Product) -> PatchRequest:
    """A patch of the words that the product has, which is encoded."""
    patch = PatchRequest(product=Product(id=product.id), revision=product.revision + 1, encode=True)
    if has_word(product.title) or has_word(product.description):
        patch.product.title, patch.product.description = product.title, product.description
        patch.update_mask.paths.extend(("title", "description"))
    return patch


def _patch(product: Product, image: SpaceVector | None) -> PatchRequest | None:
    """The change that encodes words and photo together anew; None: the product has neither."""
    patch = _words(product)
    if image is not None:
        patch.vectors.append(image)
    return patch if patch.update_mask.paths or patch.vectors else None


async def reencode(products: AsyncIterator[Product], built: BuiltProducts, encode: Reencoder) -> ReencodeReport:
    """Encode those of the products that are not as the version was built with them. Raises what `products` does."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def work(product_id: str) -> None:
        try:
            await encode(product_id)
        finally:
            at_once.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            async for product in products:
                if built.is_changed(product):
                    await at_once.acquire()
                    tasks.create_task(work(product.id))
    except* LookalikeError as errors:
        raise errors.exceptions[0] from None
    return encode.report


async def reencode_served(
    addresses: Sequence[str], built: BuiltProducts, name: str, options: ReencodeOptions
) -> ReencodeReport:
    """Encode anew what gateways serve once they serve this version. addresses: host:port; the first one encodes."""
    async with AsyncExitStack() as opened:
        gateways = [await opened.enter_async_context(Gateway(address, options.api_key)) for address in addresses]
        await wait_until_served([gateway.version for gateway in gateways], name, options.wait_s)
        await asyncio.sleep(options.settle_s)
        write = ChangeWriter(gateways[0].batch_write)
        encode = Reencoder(gateways[0], write, has_images=built.has_images, wait_s=options.wait_s)
        return await reencode(gateways[0].products(), built, encode)
