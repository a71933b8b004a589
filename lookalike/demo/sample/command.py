"""`lookalike catalog sample`: draw a catalogue of products that nobody sells. Writes files, uses every core."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from lookalike.cli.progress import progress_bar
from lookalike.demo.sample.assortment import LEAVES, Leaf
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import COLOURS, Colour, luminance
from lookalike.demo.sample.drawing.pen import CameraView, Pen
from lookalike.demo.sample.drawing.photo import render_photo
from lookalike.demo.sample.titles import ProductFacts, Shop, description, shops, tags, title
from lookalike.errors import BadCatalogue, BadSettings

PRODUCTS = 2400
IMAGES = "images"
MAX_PRODUCTS = 1_000_000
# The other 15 % are offers of the same product by another shop, with its own title and photo: duplicates to find.
_MODELS_SHARE = 0.85
_CHUNK = 32
_FIRST_DAY_S, _YEAR_S = 1735689600, 365 * 86400  # Products are created in the course of 2025.


def draw_catalogue(
    directory: Path, *, products: int = PRODUCTS, seed: int = 0, quiet: bool = True, workers: int = 0
) -> int:
    """Draw a catalogue into a new directory and return its number of products.

    The same seed gives the same bytes, with the same version of Pillow.

    workers: number of processes that draw; 0: one per core.
    """
    _make_directory(directory)
    sellers, models = shops(seed), max(math.ceil(products * _MODELS_SHARE), 1)
    with progress_bar("drawing", total=products, quiet=quiet) as count:
        for _ in _draw_photos(directory, products, models, seed, workers or os.cpu_count() or 1):
            count()
    return _write(directory, (_row(number, models, seed, sellers) for number in range(products)))


def _make_directory(directory: Path) -> None:
    """Create the directory. Raises BadCatalogue if it is not empty."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BadCatalogue(f"{directory}: not empty; a new catalogue needs a directory of its own")
        (directory / IMAGES).mkdir()
    except OSError as error:
        raise BadCatalogue(f"{directory}: {error.strerror}") from None


def _write(directory: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write products.jsonl (see docs/catalogue.md), completely or not at all; return its number of rows."""
    part, count = directory / "products.jsonl.part", 0
    with part.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007  # the last one is the count
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(directory / "products.jsonl")
    return count


def _draw_photos(directory: Path, products: int, models: int, seed: int, workers: int) -> Iterator[None]:
    draw = partial(_draw, directory=directory, models=models, seed=seed)
    if workers == 1 or products < 2 * _CHUNK:
        yield from map(draw, range(products))
        return
    # spawn, not fork: the caller may have threads that use gRPC, which does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, range(products), chunksize=_CHUNK)


def _draw(number: int, *, directory: Path, models: int, seed: int) -> None:
    (directory / _image(number)).write_bytes(_photo(number, models, seed))


def _photo(number: int, models: int, seed: int) -> bytes:
    model = _model(number, models, seed)
    facts, look = _facts_and_look(model, seed)
    rng, leaf = random.Random(f"{seed}/photo/{number}"), facts.leaf
    tilt = 1.0 if leaf.stands else 9.0
    view = CameraView(
        degrees=rng.uniform(-tilt, tilt),
        scale=rng.uniform(0.84, 0.97),
        dx=rng.uniform(-2, 2),
        dy=rng.uniform(-2, 2),
        mirrored=rng.random() < 0.3,
    )
    pen = Pen(view, look.main)
    leaf.draw(pen, look)
    return render_photo(pen, stands=leaf.stands, rng=rng)


def _facts_and_look(model: int, seed: int) -> tuple[ProductFacts, Look]:
    rng, leaf = random.Random(f"{seed}/model/{model}"), LEAVES[model % len(LEAVES)]
    variant = rng.choice(sorted(leaf.variants))
    colour = rng.choice(leaf.colours)
    facts = ProductFacts(
        leaf=leaf,
        variant=variant,
        colour=colour,
        accent=rng.choice([other for other in COLOURS if _differ_in_luminance(colour, other)]),
        pattern=rng.choice(leaf.patterns),
        material=rng.choice(leaf.materials),
    )
    look = Look(variant=variant, main=colour.rgb, accent=facts.accent.rgb, pattern=facts.pattern, rng=rng)
    return facts, look


def _differ_in_luminance(one: Colour, other: Colour) -> bool:
    return abs(luminance(one.rgb) - luminance(other.rgb)) > 0.18


def _model(number: int, models: int, seed: int) -> int:
    return number if number < models else random.Random(f"{seed}/again/{number}").randrange(models)


def _image(number: int) -> str:
    return f"{IMAGES}/{number + 1:05d}.jpg"


def _row(number: int, models: int, seed: int, sellers: Sequence[Shop]) -> dict[str, object]:
    facts, _ = _facts_and_look(_model(number, models, seed), seed)
    rng = random.Random(f"{seed}/offer/{number}")
    shop = rng.choice([shop for shop in sellers if facts.leaf.department in shop.departments])
    product = f"sample-{number + 1:05d}"
    return {
        "id": product,
        "title": title(facts, shop, rng),
        "description": description(facts, shop, rng),
        "category": facts.leaf.category,
        "shop": shop.name,
        "price": float(_price(facts.leaf, rng)),
        "currency": "JPY",
        "in_stock": rng.random() < 0.9,
        "image": _image(number),
        "url": f"https://{shop.name}.example/items/{product}",
        "tags": tags(facts),
        "created_at": _FIRST_DAY_S + rng.randrange(_YEAR_S),
    }


def _price(leaf: Leaf, rng: random.Random) -> int:
    """A random price: cheap products are more common than expensive ones; prices end in 80."""
    low, high = leaf.price
    return round(math.exp(rng.uniform(math.log(low), math.log(high))) / 100) * 100 - 20


_EPILOG = """\
examples:
  lookalike catalog sample my-shop                      2,400 products
  lookalike catalog sample small --products 200 --seed 7
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if not 1 <= args.products <= MAX_PRODUCTS:
        raise BadSettings(f"--products {args.products}: not in 1..{MAX_PRODUCTS}")
    count = draw_catalogue(args.directory, products=args.products, seed=args.seed, quiet=False)
    print(f"{args.directory}: {count:,} products in {len(LEAVES)} categories")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog sample",
        description="Draw a catalogue: photos, titles and descriptions in Japanese and English, shops, prices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; must be empty or not exist")
    parser.add_argument("--products", type=int, default=PRODUCTS, metavar="N", help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other products (default 0)")
    return parser
