"""The whole system on real products: import, encode with ImageNet weights, train, build, serve, query, evaluate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.splits import Split, split_of
from index.serving.shard_version import open_shard
from lookalike.client import Client
from lookalike.local import probes, process_specs
from lookalike.local.supervisor import Supervisor
from lookalike.product_rules import CatalogueProduct
from lookalike.releases import version
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32
from pipeline import catalogue
from pipeline.product import RejectedRow

pytestmark = [pytest.mark.data, pytest.mark.slow]

COUNT = 800
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Shop:
    catalogue: Path
    models: Path
    index: Path
    encoders: Path
    update: Mapping[str, Any]  # The report of the update, as JSON.


def lookalike(*words: str | Path | int) -> str:
    """Run a command line and return its output."""
    command = [sys.executable, "-m", "lookalike", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def shop(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("real")
    fashion = real_data / "fashion"
    lookalike(
        "catalog", "import", fashion / "fashion_products.csv.gz", folder / "shop", "--field", "title=title",
        "--field", "category=masterCategory,subCategory,articleType", "--category-prefix", "fashion",
        "--field", "tags=colour:{baseColour},gender:{gender}", "--images", fashion / "images_224.tar.xz",
        "--image", "{id}.jpg", "--require-image", "--limit", COUNT,
    )  # fmt: skip
    lookalike("encoders", "export", folder / "models", "--weights", *(real_data / "mobilenet").glob("*.h5"))
    words = ("--models", folder / "models", "--artifacts", folder / "encoders", "--shards", 2, "--json")
    update = json.loads(lookalike("update", folder / "shop", folder / "index", *words))
    return Shop(
        catalogue=folder / "shop",
        models=folder / "models",
        index=folder / "index",
        encoders=folder / "encoders",
        update=update,
    )


@pytest.fixture(scope="module")
def client(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a gateway with two shards, a model server and the encoders of the update: five processes."""
    model_port, text_port, first_port, second_port, gateway_port = probes.free_ports(5)
    model_server = process_specs.model_server(shop.models, model_port)
    text_encoder = process_specs.text_encoder(shop.index, text_port)
    shards = [
        process_specs.server(f"shard {number}", port, "shard", "--location", shop.index, "--shard", number)
        for number, port in enumerate((first_port, second_port))
    ]
    peers = ["--shards", ",".join(shard.address for shard in shards)]
    peers += ["--model-server", model_server.address, "--text-encoder", text_encoder.address]
    gateway = process_specs.server("gateway", gateway_port, "gateway", *peers)
    logs = tmp_path_factory.mktemp("logs")
    with Supervisor(logs, dict(os.environ), directory=process_specs.ROOT) as processes:  # noqa: TID251  # the processes inherit it
        for process in (model_server, text_encoder, *shards, gateway):
            processes.start(process.name, process.command, ready=process.ready)
        processes.wait_ready(timeout_s=120)
        with Client(gateway.address) as client:
            yield client


def held_out_products(shop: Shop, count: int) -> list[CatalogueProduct]:
    products = [item.product for item in catalogue.read(shop.catalogue) if not isinstance(item, RejectedRow)]
    return [product for product in products if split_of(product.id) is Split.TEST][:count]


def vectors_and_categories(location: Path, space: str) -> tuple[F32, list[str]]:
    """The vectors of a space of the CURRENT version, and the leaf category of each product."""
    current = version.read_current(location)
    vectors, leaves = [], []
    for shard in range(version.read_manifest(location, current).shards):
        loaded = open_shard(location, shard)
        index = loaded.base.spaces[space_number(space)]
        vectors.append(np.asarray(index.vectors))
        (table,) = loaded.base.table.parts
        leaves += [table.categories.text(int(table.category_codes[row])) for row in index.rows]
    return np.concatenate(vectors), leaves


def precision_at_10(vectors: F32, leaves: list[str]) -> tuple[float, float]:
    """Leave-one-out precision@10 by leaf category, and that of random neighbours."""
    codes = np.unique(leaves, return_inverse=True)[1]
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :10]
    counts = np.bincount(codes)[codes]
    return float((codes[nearest] == codes[:, None]).mean()), float((counts - 1).mean() / (len(codes) - 1))


def test_neighbours_of_real_products_share_their_category_far_above_chance(shop: Shop) -> None:
    assert shop.update["products"] == COUNT
    for space, min_precision in (("image", 0.45), ("text", 0.45)):
        assert shop.update["spaces"][space]["vectors"] == COUNT
        precision, chance = precision_at_10(*vectors_and_categories(shop.index, space))
        assert precision > max(min_precision, 3 * chance), (space, precision, chance)


def test_on_held_out_products_the_product_space_is_better_than_photos_and_titles_alone(
    shop: Shop, tmp_path: Path
) -> None:
    words = ("--artifacts", shop.encoders, "--out", tmp_path, "--no-untrained", "--json")
    report = json.loads(lookalike("encoders", "evaluate", shop.catalogue, shop.index, *words))
    averages = report["labellings"]["category"]["by"]
    precision = {
        space: averages[space]["averages"]["precision@10"]["micro"][0] for space in ("image", "text", "product")
    }
    assert precision["product"] > max(precision["image"], precision["text"]) + 0.05
    assert report["classification"]["methods"]["classifier, photo and title"]["accuracy"][0] > 0.75
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".png"}


def test_auto_searches_the_product_space_for_a_product_query(shop: Shop, client: Client) -> None:
    correct, queries = 0, held_out_products(shop, 20)
    for product in queries:
        response = client.search(product_id=product.id, limit=10)
        assert [entry.space for entry in response.provenance.spaces] == [SPACE_PRODUCT]
        assert response.provenance.policy == "fashion=product>image"
        correct += sum(hit.product.category == product.category for hit in response.hits)
    assert correct / (10 * len(queries)) > 0.6


def test_a_photo_and_a_text_find_the_product_that_has_both(shop: Shop, client: Client) -> None:
    for product in held_out_products(shop, 5):
        photo = shop.catalogue / product.image
        response = client.search(image=photo, text=product.title, limit=3)
        assert response.hits[0].product.id == product.id
        assert response.hits[0].score == pytest.approx(1, abs=1e-3)
        fused = client.search(image=photo, text=product.title, weights={"image": 3, "text": 1}, limit=3, explain=True)
        assert fused.hits[0].product.id == product.id
        assert [score.space for score in fused.hits[0].scores] == [SPACE_IMAGE, SPACE_TEXT]


@pytest.mark.parametrize("modality", ["photo", "title"])
def test_auto_searches_the_product_space_for_a_photo_or_a_title_alone(
    shop: Shop, client: Client, modality: str
) -> None:
    correct, queries = 0, held_out_products(shop, 20)
    for product in queries:
        query = {"image": shop.catalogue / product.image} if modality == "photo" else {"text": product.title}
        response = client.search(**query, limit=10)
        spaces = [entry.space for entry in response.provenance.spaces]
        # The update measures where words alone do best: in the product space, or in it and the text space.
        assert spaces in ([[SPACE_PRODUCT]] if modality == "photo" else [[SPACE_PRODUCT], [SPACE_TEXT, SPACE_PRODUCT]])
        correct += sum(hit.product.category == product.category for hit in response.hits)
    assert correct / (10 * len(queries)) > 0.45


def test_classification_by_id_and_by_photo_and_text_gives_the_same_category(shop: Shop, client: Client) -> None:
    answers = []
    for product in held_out_products(shop, 25):
        by_id = client.classify(product_id=product.id, precision=0.8)
        by_both = client.classify(image=shop.catalogue / product.image, text=product.title, precision=0.8)
        assert by_id.category == by_both.category
        assert by_id.categories[0].probability == pytest.approx(by_both.categories[0].probability, abs=0.02)
        assert bool(by_id.category) != bool(by_id.abstention_reason)
        if by_id.category:
            answers.append(by_id.category == product.category)
    assert len(answers) > 5
    assert np.mean(answers) > 0.7
