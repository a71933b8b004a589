"""Kill -9 of workers, Redis, nodes and model servers while events are published, and what the catalogue has after.

A publisher appends puts, patches and removals to a real stream, and again whatever was not acknowledged; photos come
from a web server that fails now and then. When everything is acked, every product must be what its events make it, one
after the other, with the vector of its last photo. Some photos are missing at first: their products are there without
them, and have them once the dead letters are replayed. Starts processes, kills them, and calls them over gRPC.
"""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.meter import COMMAND
from encoders.clients import EncodedVector, Encoders, EncoderSettings
from encoders.image.models import find_model
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.changes import patch_change, remove_change, upsert_change
from lookalike.client import Client
from lookalike.errors import LookalikeError, NotFound, Overloaded, Unavailable
from lookalike.local.probes import free_ports, is_serving, redis_answers
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.deadline import Deadline
from lookalike.stream import event as events
from lookalike.stream.product_stream import DeadLetter
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import DEFAULT_GROUP, StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.catalog_pb2 import Change, PatchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from lookalike.vectors import F32
from tests.conftest import REPOSITORY
from tests.made_once import SMALL_DIM
from tests.redis_servers import executable
from tests.unit.index.samples import clustered

ROLES: Final = ("worker 0", "worker 1", "redis", "node", "model server")
WAIT_S: Final = 180.0
_PRODUCTS, _COLOURS = 80, 48
_LEASE_S: Final = "1"
MISSING: Final = "/missing/"
_MISSING_PHOTOS: Final = 3


@dataclass
class Tally:
    """What was killed, published and found."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    published: int = 0
    repeated_appends: int = 0
    photos_requested: int = 0
    photos_not_modified: int = 0
    dead_letters_replayed: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """A product as its events make it."""

    title: str
    price: float
    image: str


def run(
    folder: Path,
    models: Path,
    *,
    kills: int,
    seed: int,
    pause_s: float = 0.02,
    progress: Callable[[str], object] = lambda line: None,
) -> Tally:
    """Kill so many processes, then compare. Raises if the system does not come to rest in time.

    models:  the folder of the small image model of `tests.made_once`.
    pause_s: between one to eight events and the next.
    """
    random, tally = Random(seed), Tally()
    with (
        Supervisor(folder / "logs", os.environ, directory=REPOSITORY, stop_s=30) as processes,  # noqa: TID251  # passed on
        _photo_server(tally, Random(seed + 1)) as photos,
    ):
        deployment = _Deployment(folder, models, processes)
        deployment.start(*ROLES)
        processes.wait_ready(timeout_s=WAIT_S)
        publisher = _Publisher(deployment.stream, photos.url, Random(seed + 2), tally, pause_s)
        publisher.start()
        try:
            for number in range(kills):
                role = ROLES[number % len(ROLES)] if number < len(ROLES) else random.choice(ROLES)
                time.sleep(random.uniform(0.3, 2.0))
                deployment.kill(role)
                tally.kills[role] += 1
                time.sleep(random.choice((0.0, 0.5, 2.0)))
                deployment.start(role)
                if random.random() < 0.6:  # Else the next is killed while this one starts.
                    processes.wait_ready(timeout_s=WAIT_S)
                progress(f"{number + 1}: {role}: {tally.published} events published")
        finally:
            states = publisher.stop()
        processes.wait_ready(timeout_s=WAIT_S)
        dead = asyncio.run(_until_acked(deployment.stream))
        missing = {product_id for product_id, state in states.items() if state and MISSING in state.image}
        parked = [events.product_id_of(letter.event.change) for letter in dead if letter.event]
        if sorted(parked) != sorted(missing) or not all("not found" in letter.reason for letter in dead):
            tally.violations.append(f"dead letters: {[(letter.reason, letter.event) for letter in dead]}")
        with Client(deployment.node, timeout_s=WAIT_S) as client:
            tally.violations += [f"{each} has a photo" for each in missing if "image" in client.vectors(each)]
        photos.missing_are_there.set()
        asyncio.run(_replay(deployment.stream, dead))
        tally.dead_letters_replayed = len(dead)
        tally.violations += [f"dead letter: {each.reason}" for each in asyncio.run(_until_acked(deployment.stream))]
        vectors = asyncio.run(_vectors_of(deployment.model_server, {each.image for each in states.values() if each}))
        with Client(deployment.node, timeout_s=WAIT_S) as client:
            for product_id, state in sorted(states.items()):
                if (found := _violation(client, product_id, state, vectors)) is not None:
                    tally.violations.append(found)
            if (count := client.count(category_in=["events"])) != sum(each is not None for each in states.values()):
                tally.violations.append(f"{count} products are counted")
    return tally


class _Deployment:
    """A node, a model server, Redis and two workers, each of which is started again on its own port."""

    def __init__(self, folder: Path, models: Path, processes: Supervisor) -> None:
        self._folder, self._models, self._processes = folder, models, processes
        self._ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
        self._starts = 0
        self._running: dict[str, str] = {}
        self.stream = StreamSettings(url=f"redis://{self._address('redis')}", lease_s=float(_LEASE_S), heartbeat_s=0.25)
        self.node, self.model_server = self._address("node"), self._address("model server")
        (folder / "redis").mkdir(parents=True)
        encoder = find_model(models).encoder
        ids = [f"built{row}" for row in range(300)]
        table = pa.table({"id": ids, "category": ["built"] * len(ids)})
        space = SpaceVectors(encoder=encoder, vectors=clustered(len(ids), SMALL_DIM), rows=np.arange(len(ids)))
        build(folder / "index", table, {int(SPACE_IMAGE): space}, shards=2, options=IndexOptions(recipe="Flat"))

    def start(self, *roles: str) -> None:
        for role in roles:
            self._starts += 1
            self._running[role] = name = f"{role} start {self._starts}"
            address = self._address(role)
            ready = partial(redis_answers if role == "redis" else is_serving, address)
            self._processes.start(name, self._command(role), ready=ready)

    def kill(self, role: str) -> None:
        self._processes.kill(self._running.pop(role))

    def _address(self, role: str) -> str:
        return f"127.0.0.1:{self._ports[role]}"

    def _command(self, role: str) -> list[str]:
        port, folder = str(self._ports[role]), self._folder
        match role.split(maxsplit=1)[0]:
            case "redis":
                options = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"]
                return [executable(), "--port", port, "--bind", "127.0.0.1", "--dir", str(folder / "redis"), *options]
            case "node":
                words = ["node", "--location", str(folder / "index"), "--live-dir", str(folder / "live")]
                words += ["--threads", "1", "--delta-rows", "512"]
            case "model":
                words = ["model-server", "--models", str(self._models)]
            case _:
                words = ["worker", "--stream", self.stream.url, "--gateway", self.node, "--lease-s", _LEASE_S]
                words += ["--model-server", self.model_server, "--features", str(folder / "features")]
                words += ["--allow-networks", "127.0.0.0/8", "--name", role.replace(" ", "-"), "--drain-s", "1"]
        return [*COMMAND, "serve", *words, "--port", port]


class _Publisher(threading.Thread):
    """Publishes events of a fixed set of products, those of each in the order of their revisions."""

    def __init__(self, stream: StreamSettings, photos: str, random: Random, tally: Tally, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._settings, self._photos, self._random, self._tally = stream, photos, random, tally
        self._pause_s = pause_s
        self._states: dict[str, State | None] = {}
        self._revision = 0
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # Told by `stop`.
            self._error = error

    def stop(self) -> dict[str, State | None]:
        """What every product has become, once all that was published is in the stream."""
        self._stopping.set()
        self.join(WAIT_S)
        if self._error is not None:
            raise self._error
        assert not self.is_alive(), "the stream takes no events"
        return self._states

    async def _publish(self) -> None:
        stream = None
        first = True
        while not self._stopping.is_set():
            if first:
                changes = [self._without_photo(number) for number in range(_MISSING_PHOTOS)]
            else:
                changes = [self._change() for _ in range(self._random.randint(1, 8))]
            first = False
            batch = [events.new_event(each, source="test", published_at_s=unix_time_s()) for each in changes]
            while True:
                try:
                    stream = stream or await open_redis_stream(self._settings)
                    await stream.append(batch)
                    break
                except (Unavailable, Overloaded):
                    self._tally.repeated_appends += 1
                    await asyncio.sleep(0.05)
            self._tally.published += len(batch)
            await asyncio.sleep(self._pause_s)
        if stream is not None:
            await stream.close()

    def _without_photo(self, number: int) -> Change:
        self._revision += 10  # A replay adds the photo by a revision one greater.
        image = f"{self._photos}{MISSING}{number}.png"
        self._states[f"m{number}"] = state = State(f"title {number}", float(number), image)
        product = Product(id=f"m{number}", category="events", title=state.title, price=state.price, image=image)
        return upsert_change(product, revision=self._revision, encode=True, allow_unfindable=True)

    def _change(self) -> Change:
        product_id = f"e{self._random.randrange(_PRODUCTS):03}"
        self._revision += 1
        revision, state, kind = self._revision, self._states.get(product_id), self._random.random()
        if state is None or kind < 0.15:
            state = State(f"title {revision}", float(revision), self._photo())
            product = Product(id=product_id, category="events", title=state.title, price=state.price, image=state.image)
            change = upsert_change(product, revision=revision, encode=True)
        elif kind < 0.25:
            state, change = None, remove_change(product_id, revision=revision)
        elif kind < 0.4:
            state = replace(state, image=self._photo())
            change = Change(patch=PatchRequest(product=Product(id=product_id, image=state.image), revision=revision))
            change.patch.update_mask.paths.append("image")
            change.patch.encode = True
        elif kind < 0.7:
            state = replace(state, price=float(revision))
            change = patch_change(product_id, revision=revision, price=state.price)
        else:
            state = replace(state, title=f"title {revision}")
            change = patch_change(product_id, revision=revision, title=state.title)
        self._states[product_id] = state
        return change

    def _photo(self) -> str:
        return f"{self._photos}/{self._random.randrange(_COLOURS)}.png"


@dataclass(frozen=True)
class _Photos:
    url: str
    missing_are_there: threading.Event


@contextmanager
def _photo_server(tally: Tally, random: Random) -> Iterator[_Photos]:
    """A web server of photos, each of one colour and a stripe; fails now and then, and answers If-None-Match."""

    missing_are_there = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            tally.photos_requested += 1
            etag, status, body = f'"{self.path}"', 200, b""
            if self.path.startswith(MISSING) and not missing_are_there.is_set():
                status = 404
            elif random.random() < 0.02:
                status = 500
            elif self.headers.get("If-None-Match") == etag:
                status = 304
                tally.photos_not_modified += 1
            else:
                body = picture(_number_of(self.path))
            with suppress(ConnectionError):  # Of a worker that was killed.
                self.send_response(status)
                self.send_header("Content-Type", "image/png")
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield _Photos(f"http://127.0.0.1:{server.server_port}", missing_are_there)
    finally:
        server.shutdown()
        server.server_close()


def picture(number: int) -> bytes:
    """A PNG that no other number has."""
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small.repeat(16, axis=0).repeat(16, axis=1)).save(file, "PNG")
    return file.getvalue()


async def _until_acked(settings: StreamSettings) -> list[DeadLetter]:
    stream = await open_redis_stream(settings)
    try:
        async with asyncio.timeout(WAIT_S):
            while (await stream.status(DEFAULT_GROUP)).lag:  # noqa: ASYNC110  # Other processes change it.
                await asyncio.sleep(0.1)
        return [*await stream.dead_letters()]
    finally:
        await stream.close()


async def _replay(settings: StreamSettings, letters: Sequence[DeadLetter]) -> None:
    stream = await open_redis_stream(settings)
    try:
        for letter in letters:
            await stream.replay(letter.id)
    finally:
        await stream.close()


async def _vectors_of(model_server: str, images: set[str]) -> dict[str, F32]:
    encoders = Encoders(EncoderSettings(model_server=model_server, timeout_s=60.0, max_waiting=1000))
    try:
        encoded: list[EncodedVector] = await asyncio.gather(
            *(
                encoders.encode_image("image", picture(_number_of(image)), Deadline.after(WAIT_S))
                for image in sorted(images)
            )
        )
        return {image: each.vector for image, each in zip(sorted(images), encoded, strict=True)}
    finally:
        await encoders.close()


def _number_of(image: str) -> int:
    return int(image.rpartition("/")[2].removesuffix(".png"))


def _violation(client: Client, product_id: str, state: State | None, vectors: dict[str, F32]) -> str | None:
    try:
        product, found = client.get(product_id), client.vectors(product_id)
    except NotFound:
        return None if state is None else f"{product_id} is lost: {state}"
    except LookalikeError as error:
        return f"{product_id}: {error}"
    if state is None:
        return f"{product_id} is there after its removal"
    if (product.title, product.price, product.image) != (state.title, state.price, state.image):
        return f"{product_id} is {product}, and its events make it {state}"
    if "image" not in found or float(found["image"] @ vectors[state.image]) < 0.9999:
        return f"{product_id} has not the vector of its last photo"
    return None
