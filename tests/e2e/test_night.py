"""A day and a night: products are published, an update runs while more are, and nothing of either is lost."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.meter import COMMAND
from encoders.clients import EncodedVector, Encoders, EncoderSettings
from encoders.text import model as text_encoder
from lookalike.changes import patch_change, remove_change, upsert_change
from lookalike.client import Client
from lookalike.demo.sample import command as sample
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.deadline import Deadline
from lookalike.stream import event as events
from lookalike.stream.product_stream import ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import DEFAULT_GROUP, StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.catalog_pb2 import Change, PatchRequest
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32
from tests.conftest import REPOSITORY
from tests.redis_servers import RedisServer

WAIT_S = 120.0
BUILT = 40
COLOURS = ("red", "blue", "green", "black", "white", "brown")
THINGS = ("sneaker", "boots", "shirt", "jacket", "bag", "watch", "dress")


@dataclass(frozen=True)
class State:
    """A product as its changes make it."""

    title: str
    price: float
    image: str


class Shop:
    """Changes products, those of a day and those of a night, and remembers what they have become."""

    def __init__(self, photos: Path) -> None:
        self.states: dict[str, State | None] = {}
        self._photos = photos
        self._revision = 0
        self._number = 0
        photos.mkdir()

    def put(self, product_id: str) -> Change:
        self._number += 1
        image = f"{product_id}-{self._number}.png"
        (self._photos / image).write_bytes(picture(self._number))
        state = self.states[product_id] = State(self._title(), float(self._number), image)
        product = Product(id=product_id, category="new", title=state.title, price=state.price, image=image)
        return upsert_change(product, revision=self._next(), encode=True)

    def patch_price(self, product_id: str) -> Change:
        state = self._state(product_id)
        self.states[product_id] = replace(state, price=state.price + 1)
        return patch_change(product_id, revision=self._next(), price=state.price + 1)

    def patch_title(self, product_id: str) -> Change:
        self._number += 1
        title = self._title()
        self.states[product_id] = replace(self._state(product_id), title=title)
        return patch_change(product_id, revision=self._next(), title=title, encode=True)

    def patch_photo(self, product_id: str) -> Change:
        self._number += 1
        image = f"{product_id}-{self._number}.png"
        (self._photos / image).write_bytes(picture(self._number))
        self.states[product_id] = replace(self._state(product_id), image=image)
        patch = PatchRequest(product=Product(id=product_id, image=image), revision=self._next(), encode=True)
        patch.update_mask.paths.append("image")
        return Change(patch=patch)

    def remove(self, product_id: str) -> Change:
        self.states[product_id] = None
        return remove_change(product_id, revision=self._next())

    def _title(self) -> str:
        return f"{COLOURS[self._number % len(COLOURS)]} {THINGS[self._number % len(THINGS)]} {self._number}"

    def _state(self, product_id: str) -> State:
        state = self.states[product_id]
        assert state is not None
        return state

    def _next(self) -> int:
        self._revision += 10
        return self._revision


async def image_vectors(model_server: str, photos: dict[str, bytes]) -> dict[str, F32]:
    encoders = Encoders(EncoderSettings(model_server=model_server, timeout_s=60.0, max_waiting=1000))
    try:
        encoded: list[EncodedVector] = await asyncio.gather(
            *(encoders.encode_image("image", each, Deadline.after(WAIT_S)) for each in photos.values())
        )
        return {key: each.vector for key, each in zip(photos, encoded, strict=True)}
    finally:
        await encoders.close()


def picture(number: int) -> bytes:
    """A PNG that no other number has."""
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small.repeat(16, axis=0).repeat(16, axis=1)).save(file, "PNG")
    return file.getvalue()


class Night(threading.Thread):
    """Publishes changes of new products and of those of the day until it is stopped."""

    def __init__(self, stream: StreamSettings, shop: Shop) -> None:
        super().__init__(daemon=True)
        self._stream, self._shop = stream, shop
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.published = 0

    def run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # Raised by `stop`.
            self._error = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(WAIT_S)
        if self._error is not None:
            raise self._error

    async def _publish(self) -> None:
        stream = await open_redis_stream(self._stream)
        shop, number = self._shop, 0
        try:
            while not self._stopping.is_set():
                new = f"night{number:03}"
                changes = [shop.put(new)]
                if number % 3 == 0:
                    changes.append(shop.patch_price(new))  # Newer than what has its words.
                if number % 3 == 1:
                    changes.append(shop.patch_title(f"day{number % 10}"))
                if number % 4 == 2:
                    changes.append(shop.patch_photo(f"day{number % 10}"))
                if number % 7 == 6:
                    changes.append(shop.remove(f"night{number - 3:03}"))
                number += 1
                await publish(stream, changes)
                self.published += len(changes)
                await asyncio.sleep(0.1)
        finally:
            await stream.close()


async def publish(stream: ProductStream, changes: list[Change]) -> None:
    made = [events.new_event(change, source="test", published_at_s=unix_time_s()) for change in changes]
    await stream.append(made)


def publish_at_once(settings: StreamSettings, changes: list[Change]) -> None:
    async def work() -> None:
        stream = await open_redis_stream(settings)
        await publish(stream, changes)
        await stream.close()

    asyncio.run(work())


def wait_until_acked(settings: StreamSettings) -> None:
    async def work() -> None:
        stream = await open_redis_stream(settings)
        async with asyncio.timeout(WAIT_S):
            while (await stream.status(DEFAULT_GROUP)).lag:  # noqa: ASYNC110  # Other processes change it.
                await asyncio.sleep(0.05)
        assert not [letter.reason for letter in await stream.dead_letters()]
        await stream.close()

    asyncio.run(work())


def test_what_is_published_by_day_and_while_an_update_runs_is_found_by_the_encoders_of_the_new_version(
    tmp_path: Path, small_models: Path
) -> None:
    catalogue, photos, index, live = (tmp_path / name for name in ("shop", "photos", "index", "live"))
    sample.draw_catalogue(catalogue, products=BUILT, workers=1)
    shop = Shop(photos)
    roles = ("node", "worker", "model", "text")
    ports = dict(zip(roles, free_ports(len(roles)), strict=True))
    address = {role: f"127.0.0.1:{port}" for role, port in ports.items()}
    (tmp_path / "redis").mkdir()
    with (
        RedisServer(tmp_path / "redis") as redis,
        Supervisor(tmp_path / "logs", os.environ, directory=REPOSITORY, stop_s=30) as processes,  # noqa: TID251  # passed on
    ):

        def serve(name: str, role: str, *words: object) -> None:
            line = [*COMMAND, "serve", *map(str, words), "--port", str(ports[role])]
            processes.start(name, line, ready=partial(is_serving, address[role]))

        def run(name: str, *words: object) -> dict[str, Any]:
            output: dict[str, Any] = json.loads(processes.run(name, [*COMMAND, *map(str, words), "--json"]))
            return output

        stream = StreamSettings(url=redis.url)
        serve("model server", "model", "model-server", "--models", small_models)
        processes.wait_ready(timeout_s=WAIT_S)
        encode: list[object] = ["--model-server", address["model"], "--features", tmp_path / "features"]
        encode += ["--artifacts", tmp_path / "text", "--text-kind", "fasttext"]
        first = run("first update", "update", catalogue, index, *encode)
        follow = ("--location", index, "--poll-s", 0.2, "--lease-s", 3)
        serve("text encoder", "text", "text-encoder", *follow)
        encoders = ("--text-encoder", address["text"], "--model-server", address["model"])
        serve("node", "node", "node", *follow, "--live-dir", live, "--threads", 1, *encoders)
        worker = ("--stream", redis.url, "--gateway", address["node"], "--model-server", address["model"])
        serve("worker", "worker", "worker", *worker, "--features", tmp_path / "features", "--photos", photos)
        processes.wait_ready(timeout_s=WAIT_S)
        day = [shop.put(f"day{number}") for number in range(12)]
        day += [shop.patch_title("day3"), shop.patch_price("day3"), shop.patch_photo("day4"), shop.remove("day10")]
        day += [shop.remove("day11"), shop.put("day11")]
        publish_at_once(stream, day)
        with Client(address["node"], timeout_s=WAIT_S) as client:
            direct = Product(id="direct", category="new", title="green watch")
            client.upsert(direct, revision=7, encode=True, image=picture(9999))
        wait_until_acked(stream)

        night = Night(stream, shop)
        night.start()
        try:
            served, retrained = f"grpc://{address['node']}", ("--keep-text-encoder", "never", "--photos", photos)
            # A third of the products are of one new category, which the gate would take for a mistake.
            accepted = ("--accept", "shrinkage", "--reencode-wait-s", 0)
            second = run("second update", "update", served, index, *encode, *retrained, *accepted)
            report = run("reencode", "catalog", "reencode", index, "--gateway", address["node"], "--settle-s", 1)
        finally:
            night.stop()
        wait_until_acked(stream)

        assert first["spaces"]["text"]["encoder"] != second["spaces"]["text"]["encoder"]
        assert report["encoded"]
        assert not report["failed"]
        assert night.published > 10
        words = text_encoder.load(Path(str(second["text_artifact"])))
        pictures = {"direct": picture(9999)}
        pictures |= {key: (photos / each.image).read_bytes() for key, each in shop.states.items() if each}
        images = asyncio.run(image_vectors(address["model"], pictures))
        shop.states["direct"] = State("green watch", 0.0, "")
        with Client(address["node"], timeout_s=WAIT_S) as client:
            assert client.count() == BUILT + sum(each is not None for each in shop.states.values())
            for product_id, state in sorted(shop.states.items()):
                if state is None:
                    assert client.exists([product_id]) == [False]
                    continue
                product, vectors = client.get(product_id), client.vectors(product_id)
                assert (product.title, product.price, product.image) == (state.title, state.price, state.image)
                assert float(vectors["image"] @ images[product_id]) > 0.999, product_id
                assert float(vectors["text"] @ words.encode([state.title])[0]) > 0.999, product_id
