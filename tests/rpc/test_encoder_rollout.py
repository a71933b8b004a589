"""Releases with other encoders: shards, encoders and gateway move to them as one, or not at all. No call fails."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from encoders.serving.needed_models import NeededEncoders
from encoders.serving.policy import All
from lookalike.channels import aio_channel
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.names import ENCODERS
from lookalike.spaces import space_name
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import PatchRequest, UpsertRequest
from lookalike.v1.search_pb2 import ClassifyRequest, Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Product
from tests.rpc.model_servers import run_model_server, until
from tests.rpc.releases import (
    Release,
    RunningNode,
    a_node,
    a_photo,
    build_release,
    load_image_model,
    text_encoder,
    train_encoders,
    write_models,
)

PAUSE_S = 0.05  # Between the calls of a caller: what it waits for needs the cores, too.
TEXT = SearchRequest(examples=[Example(text="white mug")])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return [train_encoders(folder / str(number), number) for number in (1, 2)]


@dataclass(frozen=True)
class System:
    """A location with two releases, of which the first serves."""

    location: Path
    models: Path
    first: Release
    second: Release

    def release(self, name: str) -> Release:
        return self.first if name == self.first.version else self.second


@pytest.fixture
def system(tmp_path: Path, trained: list[Path]) -> System:
    location, models = tmp_path / "index", tmp_path / "models"
    write_models(models, 1, 2)
    first = build_release(location, trained[0], 1)
    return System(location, models, first, build_release(location, trained[1], 2, serve=False))


@dataclass
class Callers:
    """Clients that call in loops; every answer must be of one release."""

    node: RunningNode
    system: System
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # By kind of call and version.

    async def search(self, kind: str, request: SearchRequest) -> None:
        async with aio_channel(self.node.address) as channel:
            stub = search_pb2_grpc.SimilarProductsStub(channel)
            while True:
                provenance = (await stub.Search(request)).provenance
                release = self.system.release(provenance.version)
                for each in provenance.spaces:
                    assert each.encoder == getattr(release, space_name(each.space))
                assert provenance.coverage == 1
                # What was changed meanwhile has no vectors of the other encoders: `catalog reencode` is for that.
                assert all("changes of the version before" in reason for reason in provenance.degraded)
                self.answers[kind, provenance.version] += 1
                await asyncio.sleep(PAUSE_S)

    async def classify(self, kind: str, request: ClassifyRequest) -> None:
        products = {each.product: each.version for each in (self.system.first, self.system.second)}
        async with aio_channel(self.node.address) as channel:
            stub = search_pb2_grpc.SimilarProductsStub(channel)
            while True:
                response = await stub.Classify(request)
                self.answers[kind, products[response.provenance.encoder]] += 1
                await asyncio.sleep(PAUSE_S)

    async def write(self) -> None:
        async with aio_channel(self.node.address) as channel:
            stub = catalog_pb2_grpc.CatalogStub(channel)
            for number in count(1):
                product = Product(id=f"new{number % 5}", category="fashion", title="blue dress", price=1)
                await stub.Upsert(UpsertRequest(product=product, revision=2 * number, encode=True, image=a_photo(3)))
                self.answers["upsert", self.node.version] += 1
                patch = PatchRequest(
                    product=Product(id=product.id, title="black mug"), revision=2 * number + 1, encode=True
                )
                patch.update_mask.paths.append("title")
                await stub.Patch(patch)
                self.answers["patch", self.node.version] += 1
                await asyncio.sleep(PAUSE_S)

    async def all(self) -> None:
        photo, words, product = Example(image=a_photo(2)), Example(text="white mug"), Example(product_id="p7")
        await asyncio.gather(
            self.search("id", SearchRequest(examples=[product])),
            self.search("photo", SearchRequest(examples=[photo])),
            self.search("photo in its own space", SearchRequest(examples=[photo], space=SPACE_IMAGE)),
            self.search("text", SearchRequest(examples=[words])),
            self.search("explained text", SearchRequest(examples=[words], space=SPACE_TEXT, explain=True, limit=3)),
            self.search("mixed", SearchRequest(examples=[photo, words, product], space=SPACE_PRODUCT)),
            self.classify("classify", ClassifyRequest(image=a_photo(1), text="red dress")),
            self.classify("classify by id", ClassifyRequest(product_id="p7")),
            self.write(),
        )

    async def until_answered(self, name: str, calling: asyncio.Future[None], times: int = 5) -> None:
        """Wait for so many further answers of each kind, all of a version. Raises what a call raised."""
        kinds = {kind for kind, _ in self.answers}
        before = Counter(self.answers)
        async with asyncio.timeout(60):
            while len(kinds) < 10 or any(self.answers[kind, name] < before[kind, name] + times for kind in kinds):
                if calling.done():
                    calling.result()
                await asyncio.sleep(0.01)
                kinds = {kind for kind, _ in self.answers}


@asynccontextmanager
async def calling(callers: Callers) -> AsyncIterator[asyncio.Future[None]]:
    task = asyncio.ensure_future(callers.all())
    yield task
    if not task.done():
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.slow
async def test_while_releases_with_other_encoders_come_and_go_no_call_fails_and_every_answer_is_of_one(
    system: System, tmp_path: Path
) -> None:
    async with (
        text_encoder(system.location) as encoders,
        run_model_server(
            system.models, load_image_model, poll_s=0.05, needed=NeededEncoders(Directory(system.location))
        ) as model_server,
        a_node(
            system.location,
            live_dir=tmp_path / "live",
            text_encoder=(encoders.address,),
            model_server=model_server,
        ) as node,
    ):
        callers = Callers(node, system)
        async with calling(callers) as calls:
            await callers.until_answered(system.first.version, calls)
            for release in (system.second, system.first):
                version.make_current(system.location, release.version)
                await callers.until_answered(release.version, calls)
            await until(lambda: [*encoders.served.uses()] == [system.first.version])


async def search(node: RunningNode, request: SearchRequest) -> str:
    """The version that answered."""
    async with aio_channel(node.address) as channel:
        return (await search_pb2_grpc.SimilarProductsStub(channel).Search(request)).provenance.version


@pytest.mark.slow
async def test_a_gateway_stays_at_the_old_release_until_every_encoder_in_reach_serves_the_new_one(
    system: System,
) -> None:
    may_load = threading.Event()

    def lag(name: str) -> None:
        if name == system.second.version:
            may_load.wait(60)

    try:
        async with (
            text_encoder(system.location) as quick,
            text_encoder(system.location, before_load=lag) as slow,
            a_node(system.location, text_encoder=(quick.address, slow.address)) as node,
        ):
            version.make_current(system.location, system.second.version)
            expected = (
                f"text encoder {slow.address} does not serve the text encoder {system.second.text} and the product "
                f"encoder {system.second.product} of the new version yet"
            )
            await until(lambda: node.waits_for == expected)
            assert {await search(node, TEXT) for _ in range(4)} == {system.first.version}
            may_load.set()
            await until(lambda: node.version == system.second.version)
            assert {await search(node, TEXT) for _ in range(4)} == {system.second.version}
            assert not node.waits_for
    finally:
        may_load.set()


@pytest.mark.slow
async def test_an_encoder_that_is_down_keeps_no_gateway_at_the_old_release_and_fails_no_call(system: System) -> None:
    async with (
        text_encoder(system.location) as up,
        a_node(system.location, text_encoder=(up.address, "127.0.0.1:1")) as node,
    ):
        assert {await search(node, TEXT) for _ in range(4)} == {system.first.version}
        version.make_current(system.location, system.second.version)
        await until(lambda: node.version == system.second.version)
        assert {await search(node, TEXT) for _ in range(4)} == {system.second.version}


@pytest.mark.slow
async def test_a_gateway_moves_where_no_encoder_is_in_reach_at_all(system: System) -> None:
    async with a_node(system.location, text_encoder=("127.0.0.1:1",), model_server="127.0.0.1:1") as node:
        version.make_current(system.location, system.second.version)
        await until(lambda: node.version == system.second.version)


@pytest.mark.slow
async def test_a_damaged_encoder_is_refused_by_name_and_the_old_release_serves_on(system: System) -> None:
    damaged = system.location / system.second.version / ENCODERS / "text" / "fasttext.bin"
    if not damaged.exists():
        damaged = next(path for path in sorted(damaged.parent.iterdir()) if path.suffix == ".npy")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    async with (
        text_encoder(system.location) as encoders,
        a_node(system.location, text_encoder=(encoders.address,)) as node,
    ):
        version.make_current(system.location, system.second.version)
        await until(lambda: "damaged" in node.waits_for)
        assert f"of the new version: version {system.second.version}: {damaged}: damaged" in node.waits_for
        assert await search(node, TEXT) == system.first.version
        damaged.write_bytes(content)
        await until(lambda: node.version == system.second.version)
        assert await search(node, TEXT) == system.second.version


@pytest.mark.slow
async def test_a_release_whose_image_model_is_not_served_keeps_the_gateway_at_the_old_one(system: System) -> None:
    shutil.rmtree(system.models / "mobilenet" / "2")
    photo = SearchRequest(examples=[Example(image=a_photo(2))], space=SPACE_IMAGE)
    async with (
        run_model_server(system.models, load_image_model, policy=All(), poll_s=0.05) as model_server,
        a_node(system.location, model_server=model_server) as node,
    ):
        version.make_current(system.location, system.second.version)
        await until(lambda: node.waits_for)
        missing = f"does not serve the image encoder {system.second.image} of the new version yet"
        assert node.waits_for == f"image encoder {model_server} {missing}"
        assert await search(node, photo) == system.first.version
        write_models(system.models, 2)
        await until(lambda: node.version == system.second.version)
        assert await search(node, photo) == system.second.version
