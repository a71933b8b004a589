"""Answers as a person reads them: a table of hits and a line on what the answer is. Pure: rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from protos.lookalike.v1.search_pb2 import Hit, Provenance, SearchResponse
from protos.lookalike.v1.types_pb2 import Product, Space

TITLE_CELLS = 48


def table(answer: SearchResponse, *, title: str | None = None) -> Table:
    """Rank, score, id, title, category, shop and price of each hit."""
    grid = Table(title=None if title is None else Text(title, "bold"), title_justify="left")
    grid.add_column("", justify="right")
    grid.add_column("score", justify="right")
    grid.add_column("id", no_wrap=True)
    grid.add_column("title", max_width=TITLE_CELLS)
    grid.add_column("category")
    grid.add_column("shop")
    grid.add_column("price", justify="right", no_wrap=True)
    for rank, hit in enumerate(answer.hits, 1):
        grid.add_row(*_row(rank, hit))
    return grid


def provenance(told: Provenance) -> Text:
    """One line: which version, space and encoder answered, how much of the catalogue was searched, and how fast."""
    parts = [
        f"{told.timings.total_s * 1e3:.1f} ms",
        "cached" if told.cached else "computed",
        f"space {space_name(told.space)}",
        f"encoder {told.encoder or '–'}",
        f"version {told.version}",
        f"coverage {told.coverage:.0%} ({told.documents_searched:,} of {told.documents_total:,} vectors)",
        f"shards {told.shards_answered} of {told.shards_asked}",
    ]
    if told.exact:
        parts.append("exact")
    line = Text(" · ".join(map(printable, parts)), "dim")
    for reason in told.degraded:
        line.append(f"\ndegraded: {printable(reason)}", "yellow")
    return line


def space_name(space: Space.ValueType) -> str:
    return Space.Name(space).removeprefix("SPACE_").lower()


def price(product: Product) -> str:
    """Amount and currency; yen and the like have no decimals to show."""
    amount = f"{product.price:,.2f}".removesuffix(".00")
    return f"{amount} {printable(product.currency)}".strip()


def printable(text: str) -> str:
    """`text` without control characters: a title must not steer the terminal it is shown on."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _row(rank: int, hit: Hit) -> Sequence[Text | str]:
    product = hit.product
    stock = "" if product.in_stock else " (sold out)"
    texts = [f"{hit.score:.3f}", product.id, product.title + stock, product.category, product.shop, price(product)]
    # Text, not str: a title such as "[red]shoe[/]" is shown as it is, not read as markup.
    return [str(rank), *(Text(printable(text)) for text in texts)]
