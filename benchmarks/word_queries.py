"""Queries of a colour and a kind, as shoppers type them: the share of the first hits that are right in both.

The drawn sample catalogue knows the colour and the kind of every product. It is built by `lookalike update`, once as
it is and once without its tags, and searched through a node with its text encoder: by AUTO, and in the text and the
product space. One query for every colour and kind that at least 3 products have; it counts as many hits as there are
such products, at most ten.

English: "red sneakers". Titles: the words of Japanese titles. Everyday: Japanese words in which no title is written.

    python -m benchmarks.word_queries [--weights FILE] [--name word_queries]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.meter import write
from lookalike.client import Client, SearchArguments
from lookalike.demo.sample.assortment import LEAVES
from lookalike.demo.sample.command import draw_catalogue
from lookalike.demo.sample.drawing.palette import COLOURS
from lookalike.errors import LookalikeError
from lookalike.local import process_specs
from lookalike.local.probes import free_ports
from lookalike.local.supervisor import Supervisor

Known = Mapping[str, tuple[str, str]]  # Product id -> colour and category.

MIN_PRODUCTS = 3
MAX_HITS = 10
SPACES = ("auto", "text", "product")
# Other words than those of the titles; those of colours as they stand before a noun.
EVERYDAY_COLOURS = {
    **{"White": "白い", "Black": "黒い", "Grey": "灰色の", "Navy": "紺色の", "Blue": "青い", "Sky Blue": "水色の"},
    **{"Green": "緑色の", "Yellow": "黄色い", "Orange": "オレンジ色の", "Red": "赤い", "Wine": "えんじ色の"},
    **{"Pink": "桃色の", "Purple": "紫の", "Brown": "茶色い", "Camel": "らくだ色の", "Khaki": "カーキ色の"},
    **{"Beige": "ベージュ色の", "Mint": "ミント色の"},
}
EVERYDAY_KINDS = {
    "fashion/tops/t-shirts": "ティーシャツ",
    "fashion/tops/hoodies": "フーディー",
    "fashion/dresses": "ワンピ",
    "fashion/bottoms/trousers": "ズボン",
    "fashion/shoes/sneakers": "運動靴",
    "fashion/bags/handbags": "手提げ鞄",
    "fashion/bags/backpacks": "リュック",
    "fashion/accessories/watches": "リストウォッチ",
    "fashion/accessories/hats": "ハット",
    "fashion/accessories/sunglasses": "色眼鏡",
    "fashion/accessories/umbrellas": "アンブレラ",
    "home/kitchen/mugs": "コップ",
    "home/kitchen/teapots": "急須",
    "home/lighting/lamps": "電気スタンド",
    "home/furniture/chairs": "いす",
    "home/furniture/sofas": "長椅子",
    "home/decor/cushions": "座布団",
    "home/decor/clocks": "壁掛け時計",
    "home/decor/vases": "花びん",
    "garden/plants": "鉢植え",
    "beauty/lipsticks": "ルージュ",
    "beauty/perfumes": "フレグランス",
    "electronics/audio/headphones": "ヘッドフォン",
    "electronics/audio/earbuds": "イヤフォン",
    "electronics/smartphones": "スマホ",
    "books": "書籍",
    "toys/plush": "縫いぐるみ",
    "sports/bicycles": "チャリ",
}


class WordQuery(NamedTuple):
    text: str
    colour: str  # As in the tags: "sky-blue".
    category: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained", help="of the image model (default %(default)s)")
    parser.add_argument("--name", default="word_queries", help="of the result (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        result = measure(Path(folder), options.weights)
    print(write(options.name, {"weights": Path(options.weights).name, **result, "caveats": CAVEATS}))


CAVEATS = (
    "the catalogue is drawn: titles are made of few words, colours and kinds are among them; the everyday words were "
    "chosen by who wrote the dictionary, and some name kinds a little wider or narrower than the category "
    "(コップ for a mug, 座布団 for a cushion)"
)


def measure(folder: Path, weights: str) -> dict[str, Any]:
    catalogue, models = folder / "catalogue", folder / "models"
    draw_catalogue(catalogue)
    file = catalogue / "products.jsonl"
    products = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    known = {product["id"]: (_colour(product), product["category"]) for product in products}
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        processes.run("export", process_specs.lookalike_command("encoders", "export", models, "--weights", weights))
        tagged = measure_index(processes, folder, "tagged", known)
        lines = [json.dumps({**product, "tags": []}, ensure_ascii=False) for product in products]
        file.write_text("\n".join(lines), encoding="utf-8")
        untagged = measure_index(processes, folder, "untagged", known)
    return {"products": len(products), "as drawn": tagged, "without tags": untagged}


def measure_index(processes: Supervisor, folder: Path, name: str, known: Known) -> dict[str, Any]:
    """Build an index of the catalogue in `folder`, serve it and ask all queries."""
    location = folder / name
    update = process_specs.lookalike_command(
        *("update", folder / "catalogue", location, "--models", folder / "models", "--json"),
        *("--artifacts", folder / "encoders", "--features", folder / "features"),
    )
    report = json.loads(processes.run("update", update))
    text_port, node_port = free_ports(2)
    text_encoder = process_specs.text_encoder(location, text_port)
    node = process_specs.node(location, node_port, text_encoder=text_encoder)
    for spec in (text_encoder, node):
        processes.start(f"{name} {spec.name}", spec.command, ready=spec.ready)
    processes.wait_ready(timeout_s=120)
    with Client(node.address) as client:
        rows = {label: row(client, queries, known, report) for label, queries in query_sets(known).items()}
    return {"spaces": {space: entry["encoder"] for space, entry in report["spaces"].items()}, **rows}


def _colour(product: Mapping[str, Any]) -> str:
    return next((tag.removeprefix("colour:") for tag in product["tags"] if tag.startswith("colour:")), "")


def query_sets(known: Known) -> dict[str, list[WordQuery]]:
    counts = Counter(known.values())
    pairs = [
        (colour, leaf)
        for leaf in LEAVES
        for colour in COLOURS
        if counts[_tag(colour.name), leaf.category] >= MIN_PRODUCTS
    ]
    return {
        "English": [
            WordQuery(f"{colour.name} {leaf.noun[0]}".lower(), _tag(colour.name), leaf.category)
            for colour, leaf in pairs
        ],
        "titles": [
            WordQuery(f"{colour.ja} {leaf.noun[1]}", _tag(colour.name), leaf.category) for colour, leaf in pairs
        ],
        "everyday": [
            WordQuery(EVERYDAY_COLOURS[colour.name] + EVERYDAY_KINDS[leaf.category], _tag(colour.name), leaf.category)
            for colour, leaf in pairs
            if leaf.category in EVERYDAY_KINDS
        ],
    }


def _tag(colour: str) -> str:
    return colour.lower().replace(" ", "-")


def row(client: Client, queries: Sequence[WordQuery], known: Known, report: Mapping[str, Any]) -> dict[str, Any]:
    """The share of right hits by space: in both, by colour, and by kind."""
    result: dict[str, Any] = {"queries": len(queries), "examples": [queries[i].text for i in (0, len(queries) // 2)]}
    for space in SPACES:
        if space == "auto" or space in report["spaces"]:
            shares = np.array([*right_shares(client, queries, known, space)])
            result[space] = dict(zip(("both", "colour", "kind"), shares.mean(axis=0).round(3).tolist(), strict=True))
    print(result, flush=True)
    return result


def right_shares(
    client: Client, queries: Sequence[WordQuery], known: Known, space: str
) -> Iterator[tuple[float, float, float]]:
    """Of each query: the share of its first hits that are right in both, in the colour, in the kind."""
    counts = Counter(known.values())
    searches: Iterator[SearchArguments] = (
        {"text": query.text, "limit": MAX_HITS} if space == "auto" else {"text": query.text, "space": space}
        for query in queries
    )
    for i, response in sorted(client.search_stream(searches), key=lambda each: each[0]):
        query = queries[i]
        expected = min(counts[query.colour, query.category], MAX_HITS)
        if isinstance(response, LookalikeError):
            hits = []  # Words that the encoder does not know find nothing.
        else:
            hits = [known[hit.product.id] for hit in response.hits[:expected]]
        colours, kinds = ([hit[i] == (query.colour, query.category)[i] for hit in hits] for i in (0, 1))
        both = [a and b for a, b in zip(colours, kinds, strict=True)]
        yield sum(both) / expected, sum(colours) / expected, sum(kinds) / expected


if __name__ == "__main__":
    main()
