"""`lookalike update` from a catalogue to the CURRENT version, with a fake image encoder and the real text encoder."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from encoders.product import model as product_model
from encoders.serving.policy import All
from encoders.splits import Split, split_of
from encoders.text import fit
from encoders.types import Embeddings
from index.building import auto_recipe
from index.building.build import build
from lookalike.cli import dispatch
from lookalike.demo.sample import command
from lookalike.errors import BadCatalogue, Unavailable
from lookalike.releases import version
from lookalike.timestamps import unix_time_s
from pipeline import image_encoding
from pipeline.catalogue_report import CatalogueReport, MaxRejected
from pipeline.features.compaction import CompactionOptions
from pipeline.features.photo_register import FetchedPhoto
from pipeline.features.store import FeatureStore
from pipeline.image_encoding import PhotoEncoder, Pixels
from pipeline.text_encoding import KeepTextEncoder
from pipeline.update import build as build_module
from pipeline.update.changes import LiveProducts
from pipeline.update.command import main
from pipeline.update.options import UpdateOptions
from pipeline.update.plan import plan_in_full
from pipeline.update.report import UpdateReport
from pipeline.update.source import open_source
from pipeline.update.summary import summary
from tests import stores
from tests.e2e.updates import ImageModel, catalogue_of, read_index_vectors, update
from tests.rpc.model_servers import ArithmeticModel, run_model_server, write_version
from tests.unit.pipeline.catalogues import photo, write_jsonl

COUNT = 60


@pytest.fixture(scope="module")
def sample_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("update") / "shop"
    command.draw_catalogue(directory, products=COUNT, workers=1)
    return directory


@pytest.fixture(scope="module")
def trained_artifacts(sample_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder trained on the sample: three seconds that only tests of the training itself need to take."""
    folder = tmp_path_factory.mktemp("trained")
    options = UpdateOptions(
        catalogue=sample_catalogue,
        location=folder / "index",
        artifacts=folder / "text",
        connect_encoder=None,
        feature_store=folder / "store",
        text_kind="fasttext",
    )
    assert asyncio.run(update(options)).text_trained
    return options.artifacts


@pytest.fixture
def model() -> ImageModel:
    return ImageModel()


@pytest.fixture
def options(sample_catalogue: Path, trained_artifacts: Path, tmp_path: Path, model: ImageModel) -> UpdateOptions:
    catalogue = tmp_path / "shop"
    shutil.copytree(trained_artifacts, tmp_path / "text")
    (catalogue / "images").mkdir(parents=True)
    for file in (sample_catalogue / "images").iterdir():
        (catalogue / "images" / file.name).hardlink_to(file)
    (catalogue / "products.jsonl").write_bytes((sample_catalogue / "products.jsonl").read_bytes())
    return UpdateOptions(
        catalogue=catalogue,
        location=tmp_path / "index",
        artifacts=tmp_path / "text",
        connect_encoder=model.connected,
        feature_store=tmp_path / "store",
        text_kind="fasttext",
    )


def edit_products(options: UpdateOptions, *changes: tuple[int, dict[str, Any]]) -> None:
    file = catalogue_of(options) / "products.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, change in changes:
        lines[number] |= change
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_an_update_builds_the_current_version_from_a_catalogue(options: UpdateOptions, model: ImageModel) -> None:
    report = await update(replace(options, text_kind="scdv"))

    assert version.read_current(options.location) == report.version
    assert report.catalogue.products == COUNT
    assert model.photos == COUNT + 1  # and the probe
    assert report.spaces["image"] == {"encoder": "fake-000000000001", "vectors": COUNT}
    assert report.spaces["text"]["vectors"] == COUNT
    assert report.text_artifact == options.artifacts / report.spaces["text"]["encoder"]
    manifest = version.read_manifest(options.location, report.version)
    version.verify(options.location / report.version, manifest)


async def test_nothing_is_computed_again_if_the_catalogue_is_unchanged(
    options: UpdateOptions, model: ImageModel
) -> None:
    options = replace(options, artifacts=options.artifacts.with_name("untrained"))
    first = await update(options)
    model.photos = 0

    second = await update(options)

    assert model.photos == 1  # the probe
    assert second.encoded == {"photos": 0, "texts": 0}
    assert (first.text_trained, second.text_trained) == (True, False)
    assert (second.version, second.text_artifact) == (first.version, first.text_artifact)


async def test_a_new_price_gives_a_new_version_with_the_same_vectors(options: UpdateOptions) -> None:
    first = await update(options)
    edit_products(options, (3, {"price": 17}))

    second = await update(options)

    assert second.encoded == {"photos": 0, "texts": 0}
    assert not second.text_trained
    assert second.version != first.version


async def test_a_new_photo_is_the_only_one_encoded(options: UpdateOptions, model: ImageModel) -> None:
    await update(options)
    model.photos = 0
    photo = catalogue_of(options) / "images" / "00004.jpg"
    other = (catalogue_of(options) / "images" / "00005.jpg").read_bytes()
    photo.unlink()
    photo.write_bytes(other + b"\0")

    assert (await update(options)).encoded == {"photos": 1, "texts": 0}
    assert model.photos == 2


async def test_a_dry_run_counts_the_photos_and_texts_that_are_not_stored(
    options: UpdateOptions, tmp_path: Path
) -> None:
    report = await update(options)
    (catalogue_of(options) / "images" / "new.png").write_bytes(a_picture(1))
    edit_products(options, (4, {"image": "images/new.png"}), (5, {"price": 17}))
    source, live = await open_source(options, tmp_path), LiveProducts(options.location, report.version)

    plan = plan_in_full(options, source, live, image_encoder="fake-000000000001", last=None)

    assert (plan.photos, plan.texts, plan.trains_text_encoder) == (1, 0, False)
    assert (plan.changes.changed, dict(plan.changes.fields)) == (2, {"image": 1, "price": 1})
    assert plan.seconds is None  # No record says how long anything takes.


async def test_photos_encoded_by_an_interrupted_update_stay_stored(options: UpdateOptions, model: ImageModel) -> None:
    model.fails_after = 40
    with pytest.raises(RuntimeError, match="plug"):
        await update(options)
    assert not (options.location / "CURRENT").exists()
    model.fails_after, model.photos = 10**9, 0

    report = await update(options)

    assert report.catalogue.products == COUNT
    assert report.encoded["photos"] <= COUNT - 2 * image_encoding.BATCH


async def test_products_without_a_photo_or_text_are_only_in_the_other_space(options: UpdateOptions) -> None:
    edit_products(options, (0, {"image": ""}), (1, {"title": "", "description": ""}), (2, {"price": -1}))

    report = await update(options)

    assert report.catalogue.products == COUNT - 1
    assert report.catalogue.reasons == {"bad price": 1}
    assert report.spaces["image"]["vectors"] == COUNT - 2
    assert report.spaces["text"]["vectors"] == COUNT - 2


def sell_in_four_shops(options: UpdateOptions) -> None:
    """Repeat each product for four shops and keep only top-level categories: enough to train on."""
    file = catalogue_of(options) / "products.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [
        row | {"id": f"{row['id']}-{n}", "category": row["category"].split("/")[0]} for n in range(4) for row in lines
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_a_product_space_is_built_if_it_is_better_than_photo_and_title_alone(options: UpdateOptions) -> None:
    sell_in_four_shops(options)
    edit_products(options, (0, {"image": ""}), (1, {"title": "", "description": ""}))

    report = await update(options)

    assert report.product_artifact is not None, report.no_product_space_reason
    model = product_model.load(report.product_artifact)
    assert report.spaces["product"] == {"encoder": model.fingerprint, "vectors": 4 * COUNT}
    assert (model.image_encoder, model.text_encoder) == tuple(
        report.spaces[name]["encoder"] for name in ("image", "text")
    )
    version.verify(options.location / report.version, version.read_manifest(options.location, report.version))
    assert len(read_index_vectors(options.location)["product"]) == 4 * COUNT
    again = await update(options)
    assert (again.version, again.product_artifact) == (report.version, report.product_artifact)


async def test_with_too_few_products_to_train_on_there_is_no_product_space_and_the_report_says_why(
    options: UpdateOptions,
) -> None:
    report = await update(options)

    assert list(report.spaces) == ["image", "text"]
    assert report.product_artifact is None
    assert "are needed" in report.no_product_space_reason


async def test_without_an_image_encoder_there_is_only_a_text_space(options: UpdateOptions) -> None:
    report = await update(replace(options, connect_encoder=None))

    assert list(report.spaces) == ["text"]
    assert report.no_product_space_reason == "there is no image space to fuse"


async def test_without_words_there_is_only_an_image_space(options: UpdateOptions) -> None:
    edit_products(options, *((number, {"title": "", "description": ""}) for number in range(COUNT)))

    report = await update(options)

    assert list(report.spaces) == ["image"]
    assert report.text_artifact is None


async def test_a_bad_row_stops_a_strict_update_before_anything_is_published(options: UpdateOptions) -> None:
    edit_products(options, (50, {"price": -1}))

    with pytest.raises(BadCatalogue, match=r"products\.jsonl:51: bad price"):
        await update(replace(options, strict=True))

    assert not (options.location / "CURRENT").exists()


async def test_a_revision_that_would_win_over_every_later_change_is_not_published(options: UpdateOptions) -> None:
    edit_products(options, (50, {"revision": int(unix_time_s() * 10**9)}))

    with pytest.raises(BadCatalogue, match=r"products\.jsonl:51: bad revision: .* a day ahead of now"):
        await update(replace(options, strict=True))

    assert not (options.location / "CURRENT").exists()


async def test_with_more_bad_rows_than_allowed_nothing_is_published(options: UpdateOptions) -> None:
    edit_products(options, (50, {"price": -1}), (51, {"price": -1}))

    with pytest.raises(BadCatalogue, match=r"2 of .* rows rejected, more than --max-rejected 1"):
        await update(replace(options, max_rejected=MaxRejected(1, is_percentage=False)))

    assert not (options.location / "CURRENT").exists()


async def test_products_are_found_by_what_is_left_of_them_and_those_in_no_space_are_named(
    options: UpdateOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    (catalogue_of(options) / "images" / "broken.png").write_bytes(b"")
    edit_products(
        options,
        (0, {"image": "images/broken.png"}),
        (1, {"image": "images/none.png", "title": "👟✨"}),
        (2, {"image": "https://cdn.example/a.png"}),
        (3, {"image": "", "title": "👟✨", "description": ""}),
    )

    report = await update(options)

    assert report.catalogue.unfindable == ["sample-00004"]
    assert "products.jsonl:4: in no space" in capsys.readouterr().err
    assert report.catalogue.unused_reasons == {"broken photo": 1, "missing photo": 1, "photo by URL, not fetched": 1}
    assert report.catalogue.products == COUNT
    assert (report.spaces["image"]["vectors"], report.spaces["text"]["vectors"]) == (COUNT - 4, COUNT - 1)


async def test_a_photo_by_url_that_a_worker_has_fetched_is_used_and_not_fetched_again(
    options: UpdateOptions, model: ImageModel
) -> None:
    url = "https://cdn.example/a.png"
    edit_products(options, (2, {"image": url}))
    store = FeatureStore(options.feature_store, notice=print)
    vectors = store.vectors("image", encoder="fake-000000000001", dim=48)
    vectors.add(["0" * 32], np.eye(1, 48, dtype=np.float32))
    vectors.close()
    register = store.photos()
    register.add([FetchedPhoto(source=url, digest="0" * 32)])
    register.close()

    report = await update(options)

    assert report.spaces["image"]["vectors"] == COUNT
    assert not report.catalogue.unused_reasons
    assert model.photos == COUNT - 1 + 1  # and the probe


def test_only_products_of_a_gateway_have_their_photos_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch.run(lambda: main(["shop", "index", "--photos", "photos", "--artifacts", "text"], {})) == 2
    assert "--photos needs a catalogue grpc://HOST:PORT" in capsys.readouterr().err


def test_without_the_gateway_nothing_is_built(tmp_path: Path) -> None:
    arguments = ["grpc://127.0.0.1:1", str(tmp_path / "index"), "--artifacts", str(tmp_path / "text")]
    assert dispatch.run(lambda: main(arguments, {})) == 1
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("content", ["", '{"id": "a"}\n', '{"id": "a", "category": "x"}\n'])
async def test_a_catalogue_without_photos_and_words_is_an_error(options: UpdateOptions, content: str) -> None:
    (catalogue_of(options) / "products.jsonl").write_text(content)

    with pytest.raises(BadCatalogue, match=r"no (valid )?product"):
        await update(options)


async def test_an_unreachable_encoder_is_an_error_and_builds_no_version(
    options: UpdateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_encoding, "FIRST_PAUSE_S", 0.0)

    async def unreachable(pixels: Pixels) -> Embeddings:
        raise Unavailable("nobody there")

    @asynccontextmanager
    async def connected() -> AsyncIterator[PhotoEncoder]:
        yield PhotoEncoder(encode=unreachable, input_px=64)

    with pytest.raises(Unavailable):
        await update(replace(options, connect_encoder=connected))

    assert not (options.location / "CURRENT").exists()


def test_the_command_prints_its_report(options: UpdateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(catalogue_of(options)), str(options.location), "--artifacts", str(options.artifacts)]
    arguments += ["--text-kind", "fasttext"]

    assert dispatch.run(lambda: main([*arguments, "--json"], {})) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"version", "text_artifact", "products", "rejected", "spaces"} <= result.keys()
    assert Path(result["text_artifact"], "manifest.json").is_file()
    assert dispatch.run(lambda: main(arguments, {})) == 0
    output = capsys.readouterr().out
    assert f"version {result['version']}: {COUNT} products, no bad rows" in output
    assert "no image space: no --models or --model-server" in output


def test_the_command_chooses_a_recipe_within_the_memory_given_and_prints_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With thresholds that make 600 titles a large space, so that training takes seconds."""
    monkeypatch.setattr(build_module, "build", partial(build, exact_floats=1000))
    monkeypatch.setattr(auto_recipe, "MIN_DOCUMENTS", 256)
    shop = write_jsonl(tmp_path / "shop", *({"id": str(i), "title": f"size {i} of colour {i % 7}"} for i in range(600)))
    arguments = [str(shop), str(tmp_path / "index"), "--artifacts", str(tmp_path / "text"), "--text-kind", "fasttext"]
    arguments += ["--bytes-per-vector", "300"]

    assert dispatch.run(lambda: main([*arguments, "--json"], {})) == 0
    choice = json.loads(capsys.readouterr().out)["auto"]["text"]
    assert choice["bytes_per_vector"] == 300
    assert max(row["bytes_per_vector"] for row in choice["figures"]) <= 300
    assert dispatch.run(lambda: main(arguments, {})) == 0
    output = capsys.readouterr().out
    assert f"auto: {choice['recipe']}, {choice['reason']}; at most 300 B per vector in memory" in output
    assert all(f"{row['recipe']} " in output for row in choice["figures"])


@pytest.mark.parametrize(
    ("pinned", "encoder"),
    [
        pytest.param([], "mobilenet-2", id="the latest"),
        pytest.param(["--model-version", "1"], "mobilenet-1", id="a version"),
        pytest.param(["--model-label", "stable"], "mobilenet-1", id="a label"),
    ],
)
async def test_an_update_uses_the_pinned_version_of_the_image_model_in_its_size(
    tmp_path: Path, pinned: list[str], encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = write_jsonl(tmp_path / "shop", {"image": "a.png"}, photos={"a.png": photo()})
    write_version(tmp_path / "models", 1, 2)
    versions = {"1": ArithmeticModel("mobilenet-1", input_px=48, dim=256), "2": ArithmeticModel("mobilenet-2")}
    load = lambda path: versions[path.name]  # noqa: E731
    async with run_model_server(tmp_path / "models", load, policy=All(), labels={"stable": 1}) as address:
        arguments = [str(shop), str(tmp_path / "index"), "--artifacts", str(tmp_path / "text"), "--json"]
        arguments += ["--model-server", address, *pinned]
        assert await asyncio.to_thread(dispatch.run, lambda: main(arguments, {})) == 0

    assert json.loads(capsys.readouterr().out)["spaces"]["image"] == {"encoder": encoder, "vectors": 1}


async def test_an_update_uses_the_image_model_of_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = write_jsonl(tmp_path / "shop", {"image": "a.png"}, photos={"a.png": photo()})
    write_version(tmp_path / "models", 1, name="shopnet")
    arguments = [str(shop), str(tmp_path / "index"), "--artifacts", str(tmp_path / "text"), "--json"]
    load = lambda path: ArithmeticModel("shopnet-1", input_px=48, dim=256)  # noqa: E731
    async with run_model_server(tmp_path / "models", load, name="shopnet") as address:
        arguments += ["--model-server", address, "--model", "shopnet"]
        assert await asyncio.to_thread(dispatch.run, lambda: main(arguments, {})) == 0

    assert json.loads(capsys.readouterr().out)["spaces"]["image"]["encoder"] == "shopnet-1"


@pytest.mark.parametrize(
    "extra",
    [
        ["--models", "a", "--model-server", "b:1"],
        ["--models", "nowhere"],
        ["--models", "a", "--model-version", "1"],
        ["--model-label", "stable"],
        ["--model-server", "b:1", "--model-version", "-1"],
        ["--model-server", "b:1", "--model-version", "1", "--model-label", "stable"],
        ["--shards", "0"],
        ["--bytes-per-vector", "0"],
    ],
)
def test_invalid_options_exit_with_status_2(options: UpdateOptions, extra: list[str]) -> None:
    arguments = [str(catalogue_of(options)), str(options.location), "--artifacts", str(options.artifacts), *extra]

    assert dispatch.run(lambda: main(arguments, {})) == 2


def test_an_index_at_a_url_is_built_in_a_staging_directory_and_uploaded(
    options: UpdateOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, staging = stores.in_memory(), tmp_path / "staging"
    arguments = [str(catalogue_of(options)), str(store), "--artifacts", str(options.artifacts), "--json"]
    arguments += ["--text-kind", "fasttext"]

    assert dispatch.run(lambda: main(arguments, {})) == 2
    assert "--staging is not given" in capsys.readouterr().err
    assert dispatch.run(lambda: main([*arguments, "--staging", str(staging)], {})) == 0
    result = json.loads(capsys.readouterr().out)
    assert store.current() == result["version"]
    assert sum(store.read_manifest(result["version"]).products) == result["products"]
    assert store.verify(store.read_manifest(result["version"]))
    assert read_index_vectors(staging).keys() == result["spaces"].keys()


def a_picture(number: int) -> bytes:
    """A PNG of sixteen random colours, which no other number has."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((32, 32), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def many_products(directory: Path, count: int, *, per_group: int = 0) -> Path:
    """A catalogue of products with a photo and a title of their own; per_group: offers of the same product."""
    rows = [
        {
            "id": f"p{i}",
            "title": f"lamp model {i // (per_group or 1):04}x {'abcdefgh'[i % 8]}",
            "image": f"images/{i}.png",
            "tags": [f"group:{i // per_group}"] if per_group else [],
        }
        for i in range(count)
    ]
    return write_jsonl(directory, *rows, photos={f"images/{i}.png": a_picture(i) for i in range(count)})


async def test_the_score_of_duplicates_is_measured_by_copies_which_are_encoded_once(
    options: UpdateOptions, model: ImageModel, tmp_path: Path
) -> None:
    options = replace(options, catalogue=many_products(tmp_path / "many", 400))
    report = await update(options)
    held_out = sum(split_of(f"p{i}") == Split.CALIBRATE for i in range(400))
    assert model.photos == 1 + 400 + held_out  # The probe, the photos, and a copy of each that is held out.
    threshold = report.duplicates["image"]
    assert threshold is not None
    assert (threshold.measured_by, threshold.queries) == ("made copies", 2 * held_out)
    assert threshold.recall > 0
    assert 0.5 < threshold.min_score < 1
    manifest = version.read_manifest(options.location, report.version)
    assert {space.name: space.duplicates for space in manifest.spaces} == report.duplicates
    assert f"duplicates from {threshold.min_score:.4g}" in summary(report, with_images=True)
    model.photos = 0
    assert (await update(options)).version == report.version
    assert model.photos == 1


async def test_the_score_of_duplicates_is_measured_by_stated_groups_where_enough_are_stated(
    options: UpdateOptions, model: ImageModel, tmp_path: Path
) -> None:
    options = replace(options, catalogue=many_products(tmp_path / "many", 400, per_group=2))
    report = await update(options)
    assert model.photos == 1 + 400  # Nothing is copied.
    by_text, by_image = report.duplicates["text"], report.duplicates["image"]
    assert by_text is not None
    assert by_image is not None
    assert by_text.measured_by == by_image.measured_by == "stated groups"
    assert by_text.precision > by_image.precision  # Offers of one product have other photos.
    assert "image: duplicates from" in (text := summary(report, with_images=True))
    assert "no score reaches precision 0.95" in text


async def test_with_few_products_the_score_of_duplicates_is_not_measured_and_the_report_says_so(
    options: UpdateOptions,
) -> None:
    report = await update(options)
    assert report.duplicates == {"image": None, "text": None}
    assert "image: score of duplicates not measured" in summary(report, with_images=True)
    assert report.as_json()["duplicates"] == {"image": None, "text": None}


def test_a_report_without_spaces_can_be_written_as_json() -> None:
    assert UpdateReport(CatalogueReport()).as_json()["text_artifact"] is None


def part_files(options: UpdateOptions) -> list[Path]:
    return sorted(Path(options.feature_store).glob("kind=image/*/*.parquet"))


async def test_damaged_features_are_told_and_made_again(options: UpdateOptions, model: ImageModel) -> None:
    first = await update(options)
    shutil.rmtree(options.location)
    parts = part_files(options)
    data = parts[0].read_bytes()
    torn = parts[0].with_name(f"{'0' * 15}1-{'a' * 32}.parquet")
    torn.write_bytes(data[: len(data) // 2])
    parts[0].write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    encoded = model.photos

    second = await update(options)

    assert second.version == first.version
    assert 1 <= model.photos - encoded - 1 <= 2  # Beside the probe.
    assert any(f"{torn}: ignored, damaged" in notice for notice in second.catalogue.notices)
    assert any("1 damaged vectors ignored" in notice for notice in second.catalogue.notices)


async def test_features_may_be_in_an_object_store_that_several_indexes_share(
    options: UpdateOptions, model: ImageModel, tmp_path: Path
) -> None:
    shared = f"memory://{uuid4().hex}/features"
    first = await update(replace(options, feature_store=shared))
    encoded = model.photos

    second = await update(replace(options, feature_store=shared, location=tmp_path / "other"))

    assert second.version == first.version
    assert model.photos == encoded + 1  # The probe.
    assert second.encoded == {"photos": 0, "texts": 0}


async def test_vectors_of_products_that_are_gone_can_be_dropped(
    options: UpdateOptions, model: ImageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, keep_text_encoder=KeepTextEncoder.ALWAYS)
    await update(options)
    file = catalogue_of(options) / "products.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[5:]))
    old = await update(replace(options, drop_unused_features=True))
    assert {done["unused_rows"] for done in old.features.values()} == {0}  # None is a week old.
    monkeypatch.setattr(build_module, "CompactionOptions", partial(CompactionOptions, min_age_s=0))

    report = await update(replace(options, drop_unused_features=True))

    (images,) = (done for name, done in report.features.items() if name.startswith("image/"))
    assert images["unused_rows"] > 0
    encoded = model.photos
    again = await update(options)
    assert again.version == report.version
    assert model.photos == encoded + 1


def test_a_text_encoder_that_fits_is_kept_and_the_output_says_why(
    options: UpdateOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "MIN_PRODUCTS", 20)
    monkeypatch.setattr(fit, "MAX_LOSS", 1.0)
    monkeypatch.setattr(fit, "MAX_UNSEEN_WORDS", 1.0)
    shutil.rmtree(options.artifacts)
    arguments = [str(catalogue_of(options)), str(options.location), "--artifacts", str(options.artifacts)]
    arguments += ["--text-kind", "fasttext"]
    main(arguments, {})
    first = capsys.readouterr().out
    assert "text encoder trained: " in first
    assert "(no version with a text encoder serves)" in first
    edit_products(options, (0, {"title": "Another title"}))

    main(arguments, {})

    second = capsys.readouterr().out
    assert re.search(r"texts encoded +1 \(", second)
    assert "(it still fits)" in second
    assert "of texts changed" in second
    main([*arguments, "--keep-text-encoder", "never", "--json"], {})
    result = json.loads(capsys.readouterr().out)
    assert result["text_trained"]
    assert result["text_reason"] == "it is not to be kept"
