"""Questions of every kind, chosen from whatever the catalogue has. Looks which photos exist; no other I/O."""

from __future__ import annotations

import statistics
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.cli.render import price, printable
from lookalike.client import ClassifyArguments, SearchArguments, example
from lookalike.v1.types_pb2 import Product

# As in the gateway's default policy: products go by photo and words together where the index has that space; where it
# has not, fashion goes by image, all else by text.
FASHION = "fashion"
LIMIT = 5
TITLE_LETTERS = 40


@dataclass(frozen=True, kw_only=True)
class Stop:
    title: str
    question: SearchArguments = field(default_factory=SearchArguments)
    subject: ClassifyArguments | None = None  # What to classify, instead of a question.


def stops(products: Sequence[Product], catalogue: Path, spaces: Collection[str]) -> list[Stop]:
    """The same for the same products; fewer where the catalogue has no photos, no prices, or few products.

    products: some of the catalogue, by rising id; spaces: those that the index has.
    """
    pictured = [product for product in products if product.image] if "image" in spaces else []
    worded = list(products) if "text" in spaces else []
    known = [product for product in pictured if product.title] if "text" in spaces else []
    found = [
        *(_as_products(pictured, worded) if "product" in spaces else _by_id(pictured, worded)),
        *_by_photo(pictured, catalogue),
        *_by_text(worded),
        *_filtered(worded or pictured, "text" if worded else "image"),
        *_mixed(pictured, worded),
        *_fused(known, catalogue, "product" in spaces),
        *(_classified(known, worded, catalogue) if "product" in spaces else ()),
    ]
    return [*found, Stop(title=f"Once more: {found[0].title}", question=found[0].question)] if found else []


def _by_id(pictured: Sequence[Product], worded: Sequence[Product]) -> Iterator[Stop]:
    """One product that the policy sends to its photo and one that it sends to its words, or that are sent there."""
    if (product := _first(each for each in pictured if _is_fashion(each))) is not None:
        yield _stop(f"Like {_named(product)} (fashion: by its photo)", SearchArguments(product_id=product.id))
    elif pictured:
        yield _stop(f"Looks like {_named(pictured[0])}", SearchArguments(product_id=pictured[0].id, space="image"))
    if (product := _first(each for each in worded if not _is_fashion(each))) is not None:
        yield _stop(f"Like {_named(product)} (not fashion: by its words)", SearchArguments(product_id=product.id))
    elif worded:
        yield _stop(f"Reads like {_named(worded[0])}", SearchArguments(product_id=worded[0].id, space="text"))


def _as_products(pictured: Sequence[Product], worded: Sequence[Product]) -> Iterator[Stop]:
    """One product by photo and words together, as the policy has it, then one by each alone."""
    if (product := _first(each for each in pictured if _is_fashion(each)) or _first([*pictured, *worded])) is not None:
        yield _stop(f"Like {_named(product)} (by photo and words together)", SearchArguments(product_id=product.id))
    if product is not None and product in pictured:
        yield _stop(f"Looks like {_named(product)}", SearchArguments(product_id=product.id, space="image"))
    if (product := _first(each for each in worded if not _is_fashion(each)) or _first(worded)) is not None:
        yield _stop(f"Reads like {_named(product)}", SearchArguments(product_id=product.id, space="text"))


def _by_photo(pictured: Sequence[Product], catalogue: Path) -> Iterator[Stop]:
    if (product := _with_photo(pictured, catalogue)) is not None:
        photo = catalogue / product.image
        yield _stop(f"Like the photo {photo.name} ({_named(product)})", SearchArguments(image=photo))


def _by_text(worded: Sequence[Product]) -> Iterator[Stop]:
    japanese = _first(product for product in worded if _is_japanese(product.title))
    english = _first(product for product in worded if product.title.isascii() and product.title.count(" "))
    other = _first(product for product in worded if product.title)
    for product in (japanese, english) if japanese or english else (other,):
        if product is not None:
            yield _stop(f"Like the words {_named(product)}", SearchArguments(text=product.title))


def _filtered(products: Sequence[Product], space: str) -> Iterator[Stop]:
    if products:
        product = products[len(products) // 2]
        limit = Product(price=statistics.median_high(each.price for each in products), currency=product.currency)
        yield _stop(
            f"Like {_named(product)}, in stock, at most {price(limit)}, from other shops, one of each",
            SearchArguments(
                product_id=product.id,
                space=space,
                max_price=limit.price,
                in_stock=True,
                exclude_same_shop=True,
                max_per_shop=1,
            ),
        )


def _mixed(pictured: Sequence[Product], worded: Sequence[Product]) -> Iterator[Stop]:
    for products, space in ((pictured, "image"), (worded, "text")):
        if len(products) >= 2:
            one = products[0]
            other = _first(each for each in products if each.category != one.category) or products[1]
            examples = [example(product_id=one.id, weight=1), example(product_id=other.id, weight=0.5)]
            title = f"Like {_named(one)} and, half as much, {_named(other)}"
            yield _stop(title, SearchArguments(examples=examples, space=space))
            return


def _fused(known: Sequence[Product], catalogue: Path, as_products: bool) -> Iterator[Stop]:
    """A photo together with words, and a product in two spaces at once.

    known: products with a photo and a title, where the index has spaces for both.
    """
    if (product := _with_photo(known, catalogue)) is not None:
        photo = catalogue / product.image
        how = "as one product" if as_products else "half by photo, half by words"
        title = f"Like the photo {photo.name} with the words {_named(product)} ({how})"
        yield _stop(title, SearchArguments(image=photo, text=product.title))
    if known:
        title = f"Like {_named(known[0])}, 70 % by photo and 30 % by words"
        yield _stop(title, SearchArguments(product_id=known[0].id, weights={"image": 0.7, "text": 0.3}, explain=True))


def _classified(known: Sequence[Product], worded: Sequence[Product], catalogue: Path) -> Iterator[Stop]:
    if (product := _with_photo(known, catalogue)) is not None:
        photo = catalogue / product.image
        title = f"Which category? The photo {photo.name} with the words {_named(product)}"
        yield Stop(title=title, subject=ClassifyArguments(image=photo, text=product.title, limit=LIMIT))
    elif (product := _first(each for each in worded if each.title)) is not None:
        title = f"Which category? The words {_named(product)}"
        yield Stop(title=title, subject=ClassifyArguments(text=product.title, limit=LIMIT))


def _with_photo(products: Sequence[Product], catalogue: Path) -> Product | None:
    # From the other end, so that it is another product than the first one.
    return _first(product for product in reversed(products) if (catalogue / product.image).is_file())


def _stop(title: str, question: SearchArguments) -> Stop:
    return Stop(title=title, question={**question, "limit": LIMIT})


def _first(products: Iterable[Product]) -> Product | None:
    return next(iter(products), None)


def _named(product: Product) -> str:
    title = printable(product.title or product.id)
    return f"“{title if len(title) <= TITLE_LETTERS else title[: TITLE_LETTERS - 1] + '…'}”"


def _is_fashion(product: Product) -> bool:
    return product.category.split("/")[0] == FASHION


def _is_japanese(title: str) -> bool:
    """Whether it has kana: ideographs alone might be Chinese."""
    return any(unicodedata.name(letter, "").startswith(("HIRAGANA", "KATAKANA")) for letter in title)
