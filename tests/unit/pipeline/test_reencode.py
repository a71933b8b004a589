"""What changed while an update ran: which products are encoded anew, and what comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.building.build import SpaceVectors, build
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError, NotFound, Overloaded, Unavailable
from lookalike.v1.catalog_pb2 import Change, ChangeResponse, GetResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product, Space, SpaceVector
from pipeline.reencode import BuiltProducts, Reencoder, reencode, wait_until_served


@dataclass
class Stored:
    """A product, and the words and photo that its vectors are of; empty: there is no such vector."""

    title: str = "red shoe"
    image: str = "a.jpg"
    price: float = 1.0
    revision: int = 5
    words_of: str = ""
    photo_of: str = "a.jpg"


@dataclass
class Served:
    """A gateway and its stream with one product. Others change it just before each write."""

    product: Stored | None = field(default_factory=Stored)
    others: list[tuple[str, Any]] = field(default_factory=list)
    errors: list[LookalikeError] = field(default_factory=list)
    has_stream: bool = True
    enqueued: list[Change] = field(default_factory=list)
    written: list[Change] = field(default_factory=list)

    async def get(self, product_id: str, vectors: Sequence[Space.ValueType]) -> GetResponse:
        if self.product is None:
            raise NotFound("no product a")
        stored = self.product
        product = Product(id="a", title=stored.title, image=stored.image, price=stored.price, revision=stored.revision)
        response = GetResponse(product=product)
        if stored.photo_of and SPACE_IMAGE in vectors:
            response.vectors.append(SpaceVector(space=SPACE_IMAGE, vector=stored.photo_of.encode(), encoder="m"))
        return response

    async def enqueue(self, change: Change) -> None:
        if not self.has_stream:
            raise FailedPrecondition("the gateway has no stream")
        self.enqueued.append(change)

    async def write(self, change: Change) -> ChangeResponse:
        if self.errors:
            raise self.errors.pop(0)
        if self.others:
            self._change(*self.others.pop(0))
        if self.product is None:
            raise NotFound("no product a")
        patch = change.patch
        self.written.append(change)
        if patch.revision <= self.product.revision:
            return ChangeResponse(applied=False, revision=self.product.revision)
        self.product = replace(self.product, revision=patch.revision)
        if "title" in patch.update_mask.paths:
            self.product = replace(self.product, title=patch.product.title, words_of=patch.product.title)
        return ChangeResponse(applied=True, revision=patch.revision)

    def _change(self, kind: str, value: Any) -> None:
        """What others do by the new version: their words are encoded by its encoders."""
        if kind == "remove" or self.product is None:
            self.product = None
            return
        changed = {"title": {"title": value, "words_of": value}, "price": {"price": value}}[kind]
        self.product = replace(self.product, revision=self.product.revision + 1, **changed)


class Clock:
    """Stands still but for sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def reencoder(served: Served, *, wait_s: float = 60.0, has_images: bool = True) -> Reencoder:
    clock = Clock()
    return Reencoder(served, served.write, has_images=has_images, wait_s=wait_s, sleep=clock.sleep, clock=clock)


OTHERS = st.lists(
    st.one_of(
        st.tuples(st.just("price"), st.floats(1, 9)),
        st.tuples(st.just("title"), st.sampled_from(["blue shoe", "hat"])),
        st.tuples(st.just("remove"), st.none()),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(others=OTHERS)
def test_whatever_others_change_meanwhile_stays_and_the_words_are_encoded(others: list[tuple[str, Any]]) -> None:
    served = Served(others=[*others])
    encode = reencoder(served)
    asyncio.run(encode("a"))
    assert not encode.report.failed
    if served.product is None:
        assert encode.report.gone == 1
        return
    applied = others[: len(others) - len(served.others)]
    assert served.product.words_of == served.product.title
    assert served.product.title == next((value for kind, value in reversed(applied) if kind == "title"), "red shoe")
    assert served.product.price == next((value for kind, value in reversed(applied) if kind == "price"), 1.0)


async def test_words_and_photo_are_encoded_together_by_a_patch_one_revision_greater() -> None:
    served = Served()
    encode = reencoder(served)
    await encode("a")
    (change,) = served.written
    patch = change.patch
    assert (patch.revision, patch.encode, [*patch.update_mask.paths]) == (6, True, ["title", "description"])
    assert [(vector.space, vector.encoder) for vector in patch.vectors] == [(SPACE_IMAGE, "m")]
    assert encode.report.encoded == 1


async def test_a_product_without_a_word_is_encoded_by_its_photo_and_one_without_either_is_left_out() -> None:
    served = Served(product=Stored(title="—"))
    await reencoder(served)("a")
    assert not served.written[0].patch.update_mask.paths
    nothing = Served(product=Stored(title="—", image="", photo_of=""))
    encode = reencoder(nothing)
    await encode("a")
    assert (encode.report.gone, nothing.written) == (1, [])


@pytest.mark.parametrize(("has_stream", "has_images"), [(True, True), (False, True), (True, False)])
async def test_a_photo_that_has_no_vector_is_left_to_a_worker_if_there_are_any(
    has_stream: bool, has_images: bool
) -> None:
    served = Served(product=Stored(photo_of=""), has_stream=has_stream)
    encode = reencoder(served, has_images=has_images)
    await encode("a")
    left_to_worker = has_stream and has_images
    assert (encode.report.enqueued, encode.report.encoded) == (left_to_worker, not left_to_worker)
    if left_to_worker:
        patch = served.enqueued[0].patch
        assert (patch.product.image, patch.revision, patch.encode) == ("a.jpg", 6, True)
        assert [*patch.update_mask.paths] == ["title", "description", "image"]


async def test_what_may_pass_is_waited_for() -> None:
    errors = [FailedPrecondition("another encoder"), Unavailable("away"), Overloaded("full", retry_after_s=3)]
    served = Served(errors=[*errors])
    encode = reencoder(served)
    await encode("a")
    assert encode.report.encoded == 1


@pytest.mark.parametrize("error", [FailedPrecondition("another encoder"), InvalidRequest("title", "bad")])
async def test_what_does_not_pass_is_told_with_its_reason(error: LookalikeError) -> None:
    served = Served(errors=[error] * 1000)
    encode = reencoder(served)
    await encode("a")
    assert encode.report.failed == {str(error): 1}
    assert served.product == Stored()


async def test_once_nothing_could_be_encoded_for_so_long_no_other_product_is_waited_for() -> None:
    served = Served(errors=[Unavailable("away")] * 1000)
    encode = reencoder(served, wait_s=60.0)
    for product_id in ("a", "b", "c"):
        await encode(product_id)
    assert encode.report.failed == {"away": 3}
    assert 1000 - len(served.errors) < 70


async def test_a_product_that_others_change_with_every_attempt_is_told() -> None:
    served = Served(others=[("price", 2.0)] * 100)
    encode = reencoder(served)
    await encode("a")
    assert encode.report.failed == {"it changed with every attempt": 1}


def built_products(location: Path) -> BuiltProducts:
    """Products p0 to p19 of revision 5, in a version without an image space."""
    ids = [f"p{number}" for number in range(20)]
    columns = {
        "id": ids,
        "category": ["c"] * 20,
        "title": ids,
        "description": ["d"] * 20,
        "image": ["a.jpg"] * 20,
        "price": [1.0] * 20,
        "revision": [5] * 20,
    }
    vectors = SpaceVectors(encoder="t", vectors=np.eye(20, dtype=np.float32), rows=np.arange(20))
    return BuiltProducts(location, build(location, pa.table(columns), {int(SPACE_TEXT): vectors}, shards=3))


def test_a_product_is_changed_if_it_is_newer_with_other_words_or_another_photo(tmp_path: Path) -> None:
    built = built_products(tmp_path)

    def product(*, revision: int, title: str = "p7", description: str = "d", image: str = "a.jpg") -> Product:
        return Product(id="p7", title=title, description=description, image=image, price=3.0, revision=revision)

    assert not built.has_images
    assert not built.is_changed(product(revision=5))
    assert not built.is_changed(product(revision=9))
    assert not built.is_changed(product(revision=5, title="older"))
    assert built.is_changed(product(revision=6, title="new"))
    assert built.is_changed(product(revision=6, description=""))
    assert built.is_changed(product(revision=6, image="b.jpg"))
    assert built.is_changed(Product(id="p99"))


async def test_of_all_products_the_changed_ones_are_encoded_and_a_list_that_breaks_off_is_an_error(
    tmp_path: Path,
) -> None:
    async def listed(*, breaks: bool) -> AsyncIterator[Product]:
        for number in range(20):
            yield Product(id=f"p{number}", title=f"p{number}", description="d", image="a.jpg", revision=5)
        for number in range(100):
            yield Product(id=f"new{number}", title="new", revision=6)
        if breaks:
            raise Unavailable("gateway: shard 1 does not answer")

    built, encode = built_products(tmp_path), reencoder(Served())
    assert (await reencode(listed(breaks=False), built, encode)).changed == 100
    with pytest.raises(Unavailable, match="shard 1"):
        await reencode(listed(breaks=True), built, encode)


async def test_a_gateway_has_moved_when_it_answers_by_the_new_version_every_time() -> None:
    answers = iter(["old", "new", "new", "old", *["new"] * 30])
    asked = 0

    async def version() -> str:
        nonlocal asked
        asked += 1
        return next(answers)

    await wait_until_served([version], "new", 60.0)
    assert asked >= 4 + 10  # One of the gateways behind an address had not moved yet.


async def test_a_version_that_is_not_served_in_time_is_told_with_what_is() -> None:
    async def version() -> str:
        return "old"

    with pytest.raises(Unavailable, match="version new is not served after 0 s, but: old"):
        await wait_until_served([version], "new", 0.0)
