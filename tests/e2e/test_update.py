"""`lookalike update` from a catalogue to a version that serves, with a fake image encoder and the real text encoder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encoders.product import model as product
from encoders.serving.policy import All
from encoders.types import Embeddings
from index.storage import version
from lookalike.cli import dispatch
from lookalike.demo.sample import command
from lookalike.errors import BadCatalogue, Unavailable
from pipeline import encoding
from pipeline.encoding import Encode, Pixels
from pipeline.report import Report
from pipeline.update import Outcome, Update, main, update
from tests import stores
from tests.e2e.updates import ImageModel, indexed
from tests.rpc.model_servers import ArithmeticModel, run_model_server, write_version
from tests.unit.pipeline.catalogues import jsonl, photo

COUNT = 60


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("update") / "shop"
    command.sample(directory, products=COUNT, workers=1)
    return directory


@pytest.fixture
def model() -> ImageModel:
    return ImageModel()


@pytest.fixture
def what(drawn: Path, tmp_path: Path, model: ImageModel) -> Update:
    catalogue = tmp_path / "shop"
    (catalogue / "images").mkdir(parents=True)
    for file in (drawn / "images").iterdir():
        (catalogue / "images" / file.name).hardlink_to(file)
    (catalogue / "products.jsonl").write_bytes((drawn / "products.jsonl").read_bytes())
    return Update(
        catalogue=catalogue,
        location=tmp_path / "index",
        artifacts=tmp_path / "text",
        encoder=model.connected,
        store=tmp_path / "store",
        text_kind="fasttext",
    )


def edited(what: Update, *changes: tuple[int, dict[str, Any]]) -> None:
    file = what.catalogue / "products.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, change in changes:
        lines[number] |= change
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_a_catalogue_becomes_the_version_that_serves(what: Update, model: ImageModel) -> None:
    outcome = await update(replace(what, text_kind="scdv"))

    assert version.current(what.location) == outcome.version
    assert outcome.report.products == COUNT
    assert model.photos == COUNT + 1  # and the probe
    assert outcome.spaces["image"] == {"encoder": "fake-000000000001", "vectors": COUNT}
    assert outcome.spaces["text"]["vectors"] == COUNT
    assert outcome.text_artifact == what.artifacts / outcome.spaces["text"]["encoder"]
    manifest = version.read(what.location, outcome.version)
    version.verify(what.location / outcome.version, manifest)


async def test_nothing_is_computed_again_that_has_not_changed(what: Update, model: ImageModel) -> None:
    first = await update(what)
    model.photos = 0

    second = await update(what)

    assert model.photos == 1  # the probe
    assert second.encoded == {"photos": 0, "texts": 0}
    assert (first.trained, second.trained) == (True, False)
    assert (second.version, second.text_artifact) == (first.version, first.text_artifact)


async def test_a_new_price_is_a_new_version_of_the_same_vectors(what: Update) -> None:
    first = await update(what)
    edited(what, (3, {"price": 17}))

    second = await update(what)

    assert second.encoded == {"photos": 0, "texts": 0}
    assert not second.trained
    assert second.version != first.version


async def test_a_new_photo_is_the_only_one_encoded(what: Update, model: ImageModel) -> None:
    await update(what)
    model.photos = 0
    photo = what.catalogue / "images" / "00004.jpg"
    other = (what.catalogue / "images" / "00005.jpg").read_bytes()
    photo.unlink()
    photo.write_bytes(other + b"\0")

    assert (await update(what)).encoded == {"photos": 1, "texts": 0}
    assert model.photos == 2


async def test_an_interrupted_update_keeps_what_it_encoded(what: Update, model: ImageModel) -> None:
    model.fails_after = 40
    with pytest.raises(RuntimeError, match="plug"):
        await update(what)
    assert not (what.location / "CURRENT").exists()
    model.fails_after, model.photos = 10**9, 0

    outcome = await update(what)

    assert outcome.report.products == COUNT
    assert outcome.encoded["photos"] <= COUNT - 2 * encoding.BATCH


async def test_products_without_photo_or_words_are_in_the_spaces_they_can_be_in(what: Update) -> None:
    edited(what, (0, {"image": ""}), (1, {"title": "", "description": ""}), (2, {"price": -1}))

    outcome = await update(what)

    assert outcome.report.products == COUNT - 1
    assert outcome.report.reasons == {"bad price": 1}
    assert outcome.spaces["image"]["vectors"] == COUNT - 2
    assert outcome.spaces["text"]["vectors"] == COUNT - 2


def several_of_each(what: Update) -> None:
    """Four shops sell each of the products, and there are few categories: enough to learn from."""
    file = what.catalogue / "products.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [
        row | {"id": f"{row['id']}-{n}", "category": row["category"].split("/")[0]} for n in range(4) for row in lines
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_photo_and_title_are_fused_where_that_is_better_than_either(what: Update) -> None:
    several_of_each(what)
    edited(what, (0, {"image": ""}), (1, {"title": "", "description": ""}))

    outcome = await update(what)

    assert outcome.product_artifact is not None, outcome.no_product
    model = product.load(outcome.product_artifact)
    assert outcome.spaces["product"] == {"encoder": model.fingerprint, "vectors": 4 * COUNT}
    assert (model.image_encoder, model.text_encoder) == tuple(
        outcome.spaces[name]["encoder"] for name in ("image", "text")
    )
    version.verify(what.location / outcome.version, version.read(what.location, outcome.version))
    assert len(indexed(what.location)["product"]) == 4 * COUNT
    again = await update(what)
    assert (again.version, again.product_artifact) == (outcome.version, outcome.product_artifact)


async def test_too_little_to_learn_from_leaves_out_the_product_space_and_says_why(what: Update) -> None:
    outcome = await update(what)

    assert list(outcome.spaces) == ["image", "text"]
    assert outcome.product_artifact is None
    assert "are needed" in outcome.no_product


async def test_without_an_encoder_there_is_only_text(what: Update) -> None:
    outcome = await update(replace(what, encoder=None))

    assert list(outcome.spaces) == ["text"]
    assert outcome.no_product == "there is no image space to fuse"


async def test_without_a_word_there_are_only_photos(what: Update) -> None:
    edited(what, *((number, {"title": "", "description": ""}) for number in range(COUNT)))

    outcome = await update(what)

    assert list(outcome.spaces) == ["image"]
    assert outcome.text_artifact is None


async def test_a_bad_row_stops_a_strict_update_before_anything_is_published(what: Update) -> None:
    edited(what, (50, {"price": -1}))

    with pytest.raises(BadCatalogue, match=r"products\.jsonl:51: bad price"):
        await update(replace(what, strict=True))

    assert not (what.location / "CURRENT").exists()


@pytest.mark.parametrize("content", ["", '{"id": "a"}\n', '{"id": "a", "category": "x"}\n'])
async def test_a_catalogue_with_nothing_to_be_similar_by_is_an_error(what: Update, content: str) -> None:
    (what.catalogue / "products.jsonl").write_text(content)

    with pytest.raises(BadCatalogue, match="no product"):
        await update(what)


async def test_an_encoder_that_is_away_is_an_error_and_no_version_without_photos(
    what: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "FIRST_PAUSE_S", 0.0)

    async def away(pixels: Pixels) -> Embeddings:
        raise Unavailable("nobody there")

    @asynccontextmanager
    async def connected() -> AsyncIterator[Encode]:
        yield away

    with pytest.raises(Unavailable):
        await update(replace(what, encoder=connected))

    assert not (what.location / "CURRENT").exists()


def test_the_command_says_what_it_did(what: Update, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(what.catalogue), str(what.location), "--artifacts", str(what.artifacts)]

    assert dispatch.run(lambda: main([*words, "--json"], {})) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"version", "text_artifact", "products", "rejected", "spaces"} <= told.keys()
    assert Path(told["text_artifact"], "manifest.json").is_file()
    assert dispatch.run(lambda: main(words, {})) == 0
    said = capsys.readouterr().out
    assert f"version {told['version']}: {COUNT} products, no bad row" in said
    assert "no image space: no --models or --model-server" in said


@pytest.mark.parametrize(
    ("pinned", "encoder"),
    [
        pytest.param([], "mobilenet-2", id="the latest"),
        pytest.param(["--model-version", "1"], "mobilenet-1", id="a version"),
        pytest.param(["--model-label", "stable"], "mobilenet-1", id="a label"),
    ],
)
async def test_an_update_keeps_to_the_version_of_the_image_model_that_it_is_told(
    tmp_path: Path, pinned: list[str], encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = jsonl(tmp_path / "shop", {"image": "a.png"}, photos={"a.png": photo()})
    write_version(tmp_path / "models", 1, 2)
    serving = run_model_server(
        tmp_path / "models", lambda path: ArithmeticModel(f"mobilenet-{path.name}"), policy=All(), labels={"stable": 1}
    )
    async with serving as address:
        words = [str(shop), str(tmp_path / "index"), "--artifacts", str(tmp_path / "text"), "--json"]
        words += ["--model-server", address, *pinned]
        assert await asyncio.to_thread(dispatch.run, lambda: main(words, {})) == 0

    assert json.loads(capsys.readouterr().out)["spaces"]["image"] == {"encoder": encoder, "vectors": 1}


@pytest.mark.parametrize(
    "more",
    [
        ["--models", "a", "--model-server", "b:1"],
        ["--models", "nowhere"],
        ["--models", "a", "--model-version", "1"],
        ["--model-label", "stable"],
        ["--model-server", "b:1", "--model-version", "-1"],
        ["--model-server", "b:1", "--model-version", "1", "--model-label", "stable"],
        ["--shards", "0"],
    ],
)
def test_what_cannot_be_done_is_the_operators_to_mend(what: Update, more: list[str]) -> None:
    words = [str(what.catalogue), str(what.location), "--artifacts", str(what.artifacts), *more]

    assert dispatch.run(lambda: main(words, {})) == 2


def test_an_index_at_a_url_is_made_in_a_directory_and_uploaded(
    what: Update, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, staging = stores.in_memory(), tmp_path / "staging"
    words = [str(what.catalogue), str(store), "--artifacts", str(what.artifacts), "--json"]

    assert dispatch.run(lambda: main(words, {})) == 2
    assert "--staging is not given" in capsys.readouterr().err
    assert dispatch.run(lambda: main([*words, "--staging", str(staging)], {})) == 0
    told = json.loads(capsys.readouterr().out)
    assert store.current() == told["version"]
    assert sum(store.read(told["version"]).products) == told["products"]
    assert store.verify(store.read(told["version"]))
    assert indexed(staging).keys() == told["spaces"].keys()


def test_an_outcome_without_a_space_can_be_told() -> None:
    assert Outcome(Report()).as_json()["text_artifact"] is None
