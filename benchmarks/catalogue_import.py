"""What does importing a table of 1,000,000 rows without photos cost? Wall and CPU time and peak memory of the command.

    python -m benchmarks.catalogue_import [--rows 1000000]

Draws a CSV file as shops export them (ids, Japanese and English titles, descriptions of about 250 characters, paths of
categories, prices with signs and separators, quantities, tags by comma, times; one row in a thousand is bad), and
imports it with `lookalike catalog import` in a process of its own. The result is in results/catalogue_import.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import meter

_NOUNS = (
    "スニーカー",
    "ワンピース",
    "バッグ",
    "珈琲豆",
    "Running shoe",
    "Table lamp",
    "Winter jacket",
    "Toy car",
    "Sofa",
)
_ADJECTIVES = ("赤い", "青い", "レディース", "送料無料", "light", "waterproof", "large", "handmade", "限定", "new")
_OPTIONS = (
    "--field", "id=sku", "--field", "title=brand,name", "--field", "description=text", "--field", "category=path",
    "--category-separator", " > ", "--field", "shop=brand", "--field", "price=price", "--set", "currency=JPY",
    "--field", "in_stock=quantity", "--field", "tags=labels,colour:{colour}", "--tags-separator", ",",
    "--field", "created_at=created", "--field", "url=url",
)  # fmt: skip


def rows(count: int, seed: int = 0) -> Iterator[list[str]]:
    """The rows of a table with a header."""
    draw = random.Random(seed)
    yield ["sku", "brand", "name", "text", "path", "price", "quantity", "labels", "colour", "created", "url"]
    for number in range(count):
        words = draw.sample(_ADJECTIVES, 3)
        name = f"{' '.join(words)} {draw.choice(_NOUNS)} {number % 997}"
        yield [
            f"sku-{number:07}",
            f"brand {draw.randrange(3000)}",
            name,
            " ".join([name, *draw.choices(_ADJECTIVES, k=30)]),
            f"Department {draw.randrange(12)} > Kind {draw.randrange(40)} > Type {draw.randrange(10)}",
            "cheap" if number % 1000 == 999 else f"¥{draw.randrange(100, 99_000):,}",
            str(draw.randrange(0, 30)),
            ", ".join(words),
            draw.choice(("red", "Navy Blue", "白")),
            f"2025-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}T09:30:00+09:00",
            f"https://shop.example/products/{number}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        table, target = Path(folder) / "shop.csv", Path(folder) / "catalogue"
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows(args.rows))
        command = [*meter.COMMAND, "catalog", "import", str(table), str(target), *_OPTIONS, "--json"]
        start_s = time.monotonic()
        done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
        wall_s = time.monotonic() - start_s
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(done.stdout)
        result = {
            "rows": report["rows"],
            "products": report["products"],
            "rejected": report["rejected"],
            "table_mb": round(table.stat().st_size / 1e6, 1),
            "wall_s": round(wall_s, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_rss_mib": round(usage.ru_maxrss / 1024),
        }
    print(json.dumps(result))
    if args.rows == parser.get_default("rows"):
        meter.write("catalogue_import", result | {"caveats": "a drawn table; one process, which uses one core"})


if __name__ == "__main__":
    main()
