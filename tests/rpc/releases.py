"""Two releases of one catalogue with other encoders each, and the processes that serve them, in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from encoders.image.card import Card, compute_fingerprint, write_card
from encoders.image.signature import MODEL
from encoders.product import model as product_model
from encoders.product import train as train_product
from encoders.text import model as text_model
from encoders.text import train as train_text
from encoders.text_serving.encoder_set import EncoderSet, served_encoders
from encoders.text_serving.loader import EncoderLoader
from encoders.text_serving.metrics import EncoderRolloutMetrics
from index.building.build import SpaceVectors, build
from lookalike.releases.location import Directory
from lookalike.releases.rollout import Rollout
from lookalike.releases.served_versions import ServedVersions, VersionHandle
from lookalike.runtime import lifecycle
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from node import app
from node.settings import NodeSettings
from server.app import Gateway
from tests.rpc.gateways import serving
from tests.rpc.model_servers import ArithmeticModel, write_version
from tests.rpc.text_encoders import run_text_encoder
from tests.unit.encoders.synthetic_products import IMAGE_DIM, make_products
from tests.unit.index.samples import catalogue, vectors_of

COUNT, SHARDS, IMAGE_PX = 450, 2, 32
TITLES = ["red dress", "blue dress", "white mug", "black mug", "wooden table", "赤い靴"]
# The lease outlasts what two busy cores may keep a gateway from renewing it.
POLL_S, LEASE_S, REFRESH_S = 0.05, 4.0, 0.05


class Release(NamedTuple):
    """A version of the index, and the fingerprints of its encoders."""

    version: str
    image: str
    text: str
    product: str


def train_encoders(directory: Path, number: int) -> Path:
    """text/ and product/ of one release; each number gives others."""
    directory.mkdir(parents=True)
    train_text.train([*TITLES, f"only in release {number}"], directory / "text", dim=16)
    model, products = text_model.load(directory / "text"), make_products(COUNT)
    words = [int(category[-1]) for category in products.categories]  # The text part of each category, 0 to 2.
    texts = model.encode([TITLES[2 * word] for word in words])
    training = dataclasses.replace(
        products, texts=texts, text_encoder=model.fingerprint, image_encoder=image_encoder(number)
    )
    train_product.train(training, directory / "product", seed=number)
    return directory


def image_card(number: int) -> Card:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    card = Card(
        network="shopnet",
        input_px=IMAGE_PX,
        preprocessing="torch",
        output="features",
        dimension=IMAGE_DIM,
        digest=digest,
    )
    return dataclasses.replace(card, fingerprint=compute_fingerprint(card))


def image_encoder(number: int) -> str:
    return image_card(number).fingerprint


def write_models(models: Path, *numbers: int) -> None:
    """Image models as a server recognises them, with their cards; TensorFlow could not load them."""
    write_version(models, *numbers)
    for number in numbers:
        write_card(image_card(number), models / MODEL / str(number))


def build_release(location: Path, encoders: Path, number: int, *, serve: bool = True) -> Release:
    """Build a version with these encoders, whose product encoder was trained with the image encoder of this number."""
    text, product = text_model.load(encoders / "text"), product_model.load(encoders / "product")
    products = make_products(COUNT)
    titles = [TITLES[2 * int(category[-1])] for category in products.categories]
    texts = text.encode(titles)
    table = catalogue(COUNT)
    table = table.set_column(table.column_names.index("title"), "title", [titles])
    spaces: dict[int, SpaceVectors] = {
        SPACE_IMAGE: vectors_of(products.images, encoder=image_encoder(number)),
        SPACE_TEXT: vectors_of(texts, encoder=text.fingerprint),
        SPACE_PRODUCT: vectors_of(product.encode(products.images, texts), encoder=product.fingerprint),
    }
    kept: dict[int, Path] = {SPACE_TEXT: encoders / "text", SPACE_PRODUCT: encoders / "product"}
    version = build(location, table, spaces, shards=SHARDS, exact_floats=1 << 20, encoders=kept, serve=serve)
    return Release(version, image_encoder(number), text.fingerprint, product.fingerprint)


def load_image_model(path: Path) -> ArithmeticModel:
    """The model of MODELS/mobilenet/<number>."""
    return ArithmeticModel(image_encoder(int(path.name)), input_px=IMAGE_PX, dim=IMAGE_DIM)


def a_photo(axis: int) -> bytes:
    """A photo that the image models encode as the unit vector of this axis."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (axis, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass
class RunningEncoders:
    """A text encoder process."""

    served: ServedVersions[EncoderSet]
    address: str


@asynccontextmanager
async def text_encoder(
    where: Path, *, before_load: Callable[[str], None] = lambda name: None
) -> AsyncIterator[RunningEncoders]:
    """A text encoder that follows CURRENT. before_load: called on the thread that loads a version, with its name."""
    location, served = Directory(where), served_encoders(LEASE_S, time.monotonic)
    loader = EncoderLoader(location, location.pin)

    def load(name: str) -> VersionHandle[EncoderSet]:
        before_load(name)
        return loader(name)

    rollout = Rollout(
        served,
        read_target=location.current,
        load=load,
        clock=time.monotonic,
        retry_s=POLL_S,
        metrics=EncoderRolloutMetrics(),
    )
    await rollout.start()
    try:
        async with lifecycle.background_task(rollout.watch(POLL_S)), run_text_encoder(served) as server:
            yield RunningEncoders(served, server.address)
    finally:
        rollout.close()


class RunningNode(NamedTuple):
    address: str
    gateway: Gateway

    @property
    def version(self) -> str:
        return self.gateway.versions.snapshot().version

    @property
    def waits_for(self) -> str:
        """Why it does not pin the version that the shards have as their current one."""
        return "; ".join(self.gateway.versions.snapshot().waits_for)


@asynccontextmanager
async def a_node(where: Path, **settings: Any) -> AsyncIterator[RunningNode]:
    """A ready node."""
    values = {"poll_s": POLL_S, "refresh_s": REFRESH_S, "lease_s": LEASE_S, "cache_ttl_s": 0.0, "threads": 1}
    node_settings = NodeSettings(location=str(where), **{**values, **settings})
    async with app.open_node(node_settings) as (gateway, shards), AsyncExitStack() as background:
        await asyncio.gather(*(shard.rollout.start() for shard in shards))
        for shard in shards:
            await background.enter_async_context(lifecycle.background_task(shard.rollout.watch(POLL_S)))
        await background.enter_async_context(lifecycle.background_task(gateway.versions.keep_fresh()))
        await gateway.versions.until_complete()
        await gateway.versions.refresh_encoders()
        yield RunningNode(await background.enter_async_context(serving(*gateway.handlers)), gateway)
