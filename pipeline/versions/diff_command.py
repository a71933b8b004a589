"""`lookalike versions diff`: how two releases differ, and the products whose neighbours changed most. Does I/O."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from lookalike.errors import OperatorError
from lookalike.releases.location import open_location
from pipeline.versions.diff import ChangedProduct, Neighbour, ReleaseDiff, SpaceDiff, compare_releases
from pipeline.versions.local_releases import local_copy

EPILOG = """examples:
  lookalike versions diff index 5f2c9a0d1e7b3c48 77aa01c3de529b10
  lookalike versions diff index 5f2c9a0d1e7b3c48 77aa01c3de529b10 --html diff.html
  lookalike versions diff s3://bucket/index 5f2c9a0d1e7b3c48 77aa01c3de529b10 --json | jq '.spaces[].mean_overlap'

Neighbours change where products come and go, too. Exit status 2: a version is missing or damaged."""
_TITLE_CHARS = 60


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions diff",
        description="Compare two versions: products, and the ten nearest to a sample of those that both have.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory or URL")
    parser.add_argument("before", metavar="A", help="name of a version")
    parser.add_argument("now", metavar="B", help="name of the version to compare with it")
    parser.add_argument("--sample", type=int, default=1_000, metavar="N", help="products searched for (default 1000)")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, too")
    options = parser.parse_args(argv)
    if options.sample < 1:
        parser.error("--sample must be at least 1")
    with local_copy(open_location(options.location), options.before, options.now) as (before, now):
        diff = compare_releases(before, now, sample=options.sample)
    if options.html is not None:
        try:
            options.html.write_text("\n".join(page(diff)), encoding="utf-8")
        except OSError as error:
            raise OperatorError(f"{options.html}: {error.strerror}") from error
    if options.json:
        print(json.dumps(diff.as_json(), indent=1, ensure_ascii=False))
    else:
        _print_diff(Console(), diff)
    return 0


def _products_sentence(diff: ReleaseDiff) -> str:
    return f"{diff.new:,} products are new, {diff.gone:,} gone, {diff.changed:,} changed, {diff.same:,} the same"


def _space_sentence(space: SpaceDiff) -> str:
    encoder = "another encoder" if space.retrained else "the same encoder"
    return (
        f"{space.space}: of the ten nearest to {space.products:,} products {space.mean_overlap:.1%} are the same; they "
        f"changed for {space.changed:.1%}, and {space.fewer_than_half:.1%} keep fewer than 5 of 10 ({encoder})"
    )


def _spaces_sentences(diff: ReleaseDiff) -> Iterable[str]:
    yield from (f"{name}: there is no such space any more" for name in diff.spaces_gone)
    yield from (f"{name}: a new space" for name in diff.spaces_new)


def _print_diff(console: Console, diff: ReleaseDiff) -> None:
    console.print(f"{diff.before} → {diff.now}: {_products_sentence(diff)}", highlight=False, soft_wrap=True)
    for sentence in _spaces_sentences(diff):
        console.print(sentence, highlight=False, soft_wrap=True)
    for space in diff.spaces:
        console.print(f"\n{_space_sentence(space)}", highlight=False, soft_wrap=True)
        for product in space.worst:
            table = Table(diff.before, diff.now, title=escape_markup(_heading(product)), title_justify="left")
            for before, now in zip_longest(product.before, product.now):
                table.add_row(*(escape_markup(_cell(each)) for each in (before, now)))
            console.print(table)


def _heading(product: ChangedProduct) -> str:
    return f"{product.id} {_short(product.title)}: {product.overlap:.0%} the same"


def _cell(neighbour: Neighbour | None) -> str:
    return "" if neighbour is None else f"{neighbour.score:.3f} {neighbour.id} {_short(neighbour.title)}"


def _short(title: str) -> str:
    return title if len(title) <= _TITLE_CHARS else f"{title[: _TITLE_CHARS - 1]}…"


def page(diff: ReleaseDiff) -> Iterable[str]:
    """The lines of one HTML file that needs no other."""
    yield "<!doctype html><meta charset=utf-8><title>What changed</title>"
    yield "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 1em 2px 0;text-align:left}</style>"
    yield f"<h1>{escape(diff.before)} → {escape(diff.now)}</h1><p>{escape(_products_sentence(diff))}</p>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in _spaces_sentences(diff))
    for space in diff.spaces:
        yield f"<h2>{escape(space.space)}</h2><p>{escape(_space_sentence(space))}</p>"
        for product in space.worst:
            yield f"<h3>{escape(_heading(product))}</h3>"
            yield f"<table><tr><th>{escape(diff.before)}<th>{escape(diff.now)}"
            for before, now in zip_longest(product.before, product.now):
                yield f"<tr><td>{escape(_cell(before))}<td>{escape(_cell(now))}"
            yield "</table>"
