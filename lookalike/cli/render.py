"""Render responses for a terminal: tables of hits and products, a line on provenance. Pure: rich renderables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.search_pb2 import ClassifyResponse, Contribution, Provenance, SearchResponse
from lookalike.v1.types_pb2 import DuplicatesThreshold, Product, SearchPlan

MAX_CONTRIBUTIONS = 8  # Of a hit; --json has the others, too.
MAX_EXAMPLE_CHARS = 24
TRUNCATED = Text("the limit cuts off more products that score as high", "yellow")


def table(response: SearchResponse, *, without: Collection[str] = ()) -> Table | Text:
    """The hits as a table, one row each: rank, score, id, title, category, shop and price; no empty columns.

    If the response explains its scores, there is a column for the score in each space.

    without: columns to leave out, so that titles have room.
    """
    columns = {
        "": [str(rank) for rank, _ in enumerate(response.hits, 1)],
        "score": [f"{hit.score:z.3f}" for hit in response.hits],
        **_score_columns(response),
        **_product_columns([hit.product for hit in response.hits]),
    }
    return _grid({name: cells for name, cells in columns.items() if name not in without})


def contributions(response: SearchResponse, examples: Sequence[str] = ()) -> Text:
    """A line per hit that says what the parts of the query contributed to its score; empty if no hit is explained.

    examples: what to call them; they may be left out if there is one.
    """
    lines = []
    for rank, hit in enumerate(response.hits, 1):
        parts = [f"{_part(each, examples)} {each.score:+z.3f}" for each in hit.contributions[:MAX_CONTRIBUTIONS]]
        if parts:
            more = ["…"] if len(hit.contributions) > MAX_CONTRIBUTIONS else []
            lines.append(f"{rank}  {printable(hit.product.id)}: {' · '.join([*parts, *more])}")
    return Text("\n".join(lines))


def _part(contribution: Contribution, examples: Sequence[str]) -> str:
    """What to call a part of the query: a word, the side of a product, or an example."""
    if contribution.word:
        return printable(contribution.word)
    name = printable(examples[contribution.example]) if examples else ""
    if len(name) > MAX_EXAMPLE_CHARS:
        name = f"{name[: MAX_EXAMPLE_CHARS - 1]}…"
    if not contribution.side:
        return name
    return f"{contribution.side} of {name}" if len(examples) > 1 else contribution.side


def products_table(products: Sequence[Product]) -> Table | Text:
    """The products as a table, one row each: id, title, category, shop and price; no empty columns."""
    return _grid(_product_columns(products))


def product_table(product: Product, vectors: Mapping[str, int]) -> Table:
    """A product as a table, one row for each field that is set.

    vectors: the dimension of its vector in each space to show.
    """
    grid = Table(box=None, show_header=False)
    for name, value in _product_fields(product, vectors).items():
        if value:
            grid.add_row(Text(name, "dim"), Text(printable(value)))
    return grid


def _product_fields(product: Product, vectors: Mapping[str, int]) -> dict[str, str]:
    return {
        "id": product.id,
        "title": product.title,
        "description": product.description,
        "category": product.category,
        "shop": product.shop,
        "price": price(product),
        "in stock": "no" if _sold_out(product) else "yes",
        "image": product.image,
        "url": product.url,
        "tags": ", ".join(product.tags),
        "created": _time(product.created_at),
        "expires": _time(product.expires_at),
        "revision": str(product.revision or "unknown"),
        "vectors": ", ".join(f"{space} ({dim})" for space, dim in vectors.items()),
    }


def _time(seconds: int) -> str:
    """A time as text, in UTC; empty for 0."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else ""


def _product_columns(products: Sequence[Product]) -> dict[str, list[str]]:
    priced = any(product.HasField("price") for product in products)
    return {
        "id": [product.id for product in products],
        "title": [_title(product) for product in products],
        "category": [product.category for product in products],
        "shop": [product.shop for product in products],
        "price": [price(product) if priced else "" for product in products],
    }


def _grid(columns: Mapping[str, Sequence[str]]) -> Table | Text:
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    if not shown:
        return Text("nothing found", "yellow")
    grid = Table(box=SIMPLE_HEAD)
    for name in shown:
        # A title that is cut off is still useful; a number or id that is cut off is wrong.
        number = name in ("", "score", "price", *VECTOR_SPACES)
        grid.add_column(name, justify="right" if number else "left", no_wrap=number or name == "id")
    for cells in zip(*shown.values(), strict=True):
        # Text, not str: a title such as "[red]shoe[/]" is shown as it is, not read as markup.
        grid.add_row(*(Text(printable(cell), no_wrap=True, overflow="ellipsis") for cell in cells))
    return grid


def classification(response: ClassifyResponse) -> Table:
    """The most probable categories as a table, one row each."""
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("category")
    grid.add_column("probability", justify="right")
    for each in response.categories:
        style = "bold" if each.category == response.category else ""
        grid.add_row(Text(printable(each.category), style), f"{each.probability:.3f}")
    return grid


def classification_provenance(response: ClassifyResponse) -> Text:
    """The category or why there is none, and a line with the inputs, encoder, version and precision."""
    provenance = response.provenance
    parts = [
        f"{provenance.timings.total_s * 1e3:.1f} ms",
        f"by {' and '.join(map(space_name, provenance.inputs)) or '–'}",
        f"encoder {provenance.encoder or '–'}",
        *([f"version {provenance.version}"] if provenance.version else []),
        f"precision {provenance.precision:.3g}",
        f"threshold {provenance.threshold:.3f}" if provenance.threshold <= 1 else "no threshold reaches it",
    ]
    line = Text(f"category: {printable(response.category)}\n" if response.category else "", "bold")
    if response.abstention_reason:
        line.append(f"no category: {printable(response.abstention_reason)}\n", "yellow")
    line.append(" · ".join(map(printable, parts)), "dim not bold")
    return _degraded(line, provenance.degraded)


def _source(provenance: Provenance) -> str:
    if provenance.stale_s:
        return f"cached {provenance.stale_s:.1f} s ago: a product added or changed since may be missing"
    return "cached" if provenance.cached else "computed"


def threshold(threshold: DuplicatesThreshold) -> Text:
    """A line with the least score of duplicates, and how good answers with it are where that was measured."""
    line = f"duplicates: score at least {threshold.min_score:.4g}"
    if threshold.measured_by:
        line += (
            f" · as measured by {threshold.measured_by}, {threshold.precision:.0%} of an answer are the same product, "
            f"and {threshold.recall:.0%} of these are in it"
        )
    return Text(printable(line), "dim")


def provenance(provenance: Provenance) -> Text:
    """A line with the time, spaces, encoders, version and coverage of a search, then its plans and degradations."""
    parts = [
        f"{provenance.timings.total_s * 1e3:.1f} ms",
        _source(provenance),
        *_space_parts(provenance),
        f"version {provenance.version}",
        f"coverage {provenance.coverage:.0%}"
        f" ({provenance.documents_searched:,} of {provenance.documents_total:,} vectors)",
        f"shards {provenance.shards_answered} of {provenance.shards_asked}",
    ]
    if provenance.exact:
        parts.append("exact")
    line = Text("\n".join([" · ".join(map(printable, parts)), *map(_plan, provenance.plans)]), "dim")
    return _degraded(line, provenance.degraded)


def _plan(plan: SearchPlan) -> str:
    """A line on how one shard searched one space: by its ANN backend or by brute force, and over how many vectors."""
    matching = f"{plan.matching:,} of {plan.documents:,} vectors match the filter"
    backend = (
        f"{plan.recipe}, depth {plan.depth:,}, search_parameter {plan.search_parameter}, {plan.candidates:,} candidates"
    )
    method = printable(backend) if plan.recipe else "brute force"
    return f"shard {plan.shard}, {space_name(plan.space)}: {matching} · {method}"


def _degraded(line: Text, reasons: Iterable[str]) -> Text:
    for reason in reasons:
        line.append(f"\ndegraded: {printable(reason)}", "yellow not bold")
    return line


def _score_columns(response: SearchResponse) -> dict[str, list[str]]:
    """The scores of all hits in each space, by the name of the space."""
    spaces = [each.space for each in response.hits[0].scores] if response.hits else []
    return {
        space_name(space): [f"{hit.scores[i].score:z.3f}" for hit in response.hits] for i, space in enumerate(spaces)
    }


def _space_parts(provenance: Provenance) -> Iterator[str]:
    """The parts of the line that name spaces, policy and encoders; with several spaces, the weight of each, too."""
    several = len(provenance.spaces) > 1
    names = [space_name(each.space) + (f" {each.weight:.0%}" if several else "") for each in provenance.spaces]
    yield f"space{'s' if several else ''} {' + '.join(names) or '–'}"
    if provenance.policy:
        yield f"policy {provenance.policy}"
    yield f"encoder{'s' if several else ''} {', '.join(each.encoder or '–' for each in provenance.spaces) or '–'}"


def price(product: Product) -> str:
    """The price as an amount and a currency; ".00" is left out, as yen have no decimals."""
    if not product.HasField("price"):
        return "unknown"
    amount = f"{product.price:,.2f}".removesuffix(".00")
    return f"{amount} {printable(product.currency)}".strip()


def printable(text: str) -> str:
    """`text` with control characters replaced by spaces: a title must not send commands to the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _title(product: Product) -> str:
    return f"(sold out) {product.title}" if product.title and _sold_out(product) else product.title


def _sold_out(product: Product) -> bool:
    return product.HasField("in_stock") and not product.in_stock
