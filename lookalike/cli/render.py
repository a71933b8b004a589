"""Answers as a person reads them: a table of hits and a line on what the answer is. Pure: rich renderables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.search_pb2 import ClassifyResponse, Provenance, SearchResponse
from lookalike.v1.types_pb2 import Product, SearchPlan

TRUNCATED = Text("others score as much: the limit leaves them out", "yellow")


def table(answer: SearchResponse, *, without: Collection[str] = ()) -> Table | Text:
    """A line for each hit: rank, score, id, and what the catalogue knows of title, category, shop and price.

    Where the answer explains its scores, they stand beside them under the names of their spaces.

    without: columns to leave out, so that titles have room.
    """
    products = [hit.product for hit in answer.hits]
    columns = {
        "score": [f"{hit.score:z.3f}" for hit in answer.hits],
        **_explained(answer),
        "id": [product.id for product in products],
        "title": [_titled(product) for product in products],
        "category": [product.category for product in products],
        "shop": [product.shop for product in products],
        "price": [price(product) if product.price else "" for product in products],
    }
    known = {name: cells for name, cells in columns.items() if any(cells) and name not in without}
    if not products:
        return Text("nothing found", "yellow")
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("", justify="right")
    for name in known:
        # A cut title still tells what the product is; a cut number or id tells something wrong.
        number = name in ("score", "price", *VECTOR_SPACES)
        grid.add_column(name, justify="right" if number else "left", no_wrap=number or name == "id")
    for rank, cells in enumerate(zip(*known.values(), strict=True), 1):
        # Text, not str: a title such as "[red]shoe[/]" is shown as it is, not read as markup.
        grid.add_row(str(rank), *(Text(printable(cell), no_wrap=True, overflow="ellipsis") for cell in cells))
    return grid


def classification(answer: ClassifyResponse) -> Table:
    """A line for each of the likeliest categories."""
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("category")
    grid.add_column("probability", justify="right")
    for each in answer.categories:
        style = "bold" if each.category == answer.category else ""
        grid.add_row(Text(printable(each.category), style), f"{each.probability:.3f}")
    return grid


def classification_provenance(answer: ClassifyResponse) -> Text:
    """One line: the category or why there is none, what it was told by, and what the answer is."""
    told = answer.provenance
    parts = [
        f"{told.timings.total_s * 1e3:.1f} ms",
        f"by {' and '.join(map(space_name, told.inputs)) or '–'}",
        f"encoder {told.encoder or '–'}",
        *([f"version {told.version}"] if told.version else []),
        f"precision {told.precision:.3g}",
        f"from probability {told.threshold:.3f} on" if told.threshold <= 1 else "never reached",
    ]
    line = Text(f"category: {printable(answer.category)}\n" if answer.category else "", "bold")
    if answer.abstention_reason:
        line.append(f"abstains: {printable(answer.abstention_reason)}\n", "yellow")
    line.append(" · ".join(map(printable, parts)), "dim not bold")
    return _degraded(line, told.degraded)


def provenance(told: Provenance) -> Text:
    """One line: which version, space and encoder answered, how much of the catalogue was searched, and how fast."""
    parts = [
        f"{told.timings.total_s * 1e3:.1f} ms",
        "cached" if told.cached else "computed",
        *_searched(told),
        f"version {told.version}",
        f"coverage {told.coverage:.0%} ({told.documents_searched:,} of {told.documents_total:,} vectors)",
        f"shards {told.shards_answered} of {told.shards_asked}",
    ]
    if told.exact:
        parts.append("exact")
    line = Text("\n".join([" · ".join(map(printable, parts)), *map(_plan, told.plans)]), "dim")
    return _degraded(line, told.degraded)


def _plan(plan: SearchPlan) -> str:
    how = (
        f"{plan.recipe}, {plan.depth:,} deep, search_parameter {plan.search_parameter}, {plan.candidates:,} candidates"
    )
    part = f"shard {plan.shard}, {space_name(plan.space)}: {plan.matching:,} of {plan.documents:,} vectors pass"
    return f"{part} · {printable(how) if plan.recipe else 'each compared'}"


def _degraded(line: Text, reasons: Iterable[str]) -> Text:
    for reason in reasons:
        line.append(f"\ndegraded: {printable(reason)}", "yellow not bold")
    return line


def _explained(answer: SearchResponse) -> dict[str, list[str]]:
    """The scores of all hits in each space, by its name."""
    spaces = [each.space for each in answer.hits[0].scores] if answer.hits else []
    return {space_name(space): [f"{hit.scores[i].score:z.3f}" for hit in answer.hits] for i, space in enumerate(spaces)}


def _searched(told: Provenance) -> Iterator[str]:
    """ "space image", "encoder mobilenet-…"; of several spaces with the share of each."""
    several = len(told.spaces) > 1
    names = [space_name(each.space) + (f" {each.weight:.0%}" if several else "") for each in told.spaces]
    yield f"space{'s' if several else ''} {' + '.join(names) or '–'}"
    if told.policy:
        yield f"policy {told.policy}"
    yield f"encoder{'s' if several else ''} {', '.join(each.encoder or '–' for each in told.spaces) or '–'}"


def price(product: Product) -> str:
    """Amount and currency; yen and the like have no decimals to show."""
    amount = f"{product.price:,.2f}".removesuffix(".00")
    return f"{amount} {printable(product.currency)}".strip()


def printable(text: str) -> str:
    """`text` without control characters: a title must not steer the terminal it is shown on."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _titled(product: Product) -> str:
    sold_out = product.title and not product.in_stock
    return f"(sold out) {product.title}" if sold_out else product.title
