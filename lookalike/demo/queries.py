"""The demo's queries, one of every kind, chosen from the products of any catalogue. Checks which photo files exist."""

from __future__ import annotations

import statistics
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.cli.render import price, printable
from lookalike.client import ClassifyArguments, SearchArguments, example
from lookalike.v1.types_pb2 import Product

# As in the gateway's default policy: a product id is searched in the product space where the index has one; without
# it, fashion is searched by image and everything else by text.
FASHION = "fashion"
LIMIT = 5
MAX_TITLE_LETTERS = 40


@dataclass(frozen=True, kw_only=True)
class DemoQuery:
    """One request of the demo, a search or a classification, with the heading it is printed under."""

    heading: str
    search: SearchArguments = field(default_factory=SearchArguments)
    classify: ClassifyArguments | None = None  # If set, the request is this classification and not a search.


def demo_queries(products: Sequence[Product], catalogue: Path, spaces: Collection[str]) -> list[DemoQuery]:
    """The demo's queries; fewer if the catalogue has no photos, no prices, or few products. Deterministic.

    products: some of the catalogue, by rising id; spaces: the vector spaces that the index has.
    """
    with_image = [product for product in products if product.image] if "image" in spaces else []
    with_text = list(products) if "text" in spaces else []
    with_both = [product for product in with_image if product.title] if "text" in spaces else []
    queries = [
        *(_by_product_id(with_image, with_text) if "product" in spaces else _by_policy(with_image, with_text)),
        *_by_photo(with_image, catalogue),
        *_by_text(with_text),
        *_filtered(with_text or with_image, "text" if with_text else "image"),
        *_two_examples(with_image, with_text),
        *_photo_and_text(with_both, catalogue, "product" in spaces),
        *(_classification(with_both, with_text, catalogue) if "product" in spaces else ()),
    ]
    # The first query again, to show the result cache.
    return (
        [*queries, DemoQuery(heading=f"Once more: {queries[0].heading}", search=queries[0].search)] if queries else []
    )


def _by_policy(with_image: Sequence[Product], with_text: Sequence[Product]) -> Iterator[DemoQuery]:
    """A product that the policy searches by image and one that it searches by text; else a space is named."""
    if (product := _first(each for each in with_image if _is_fashion(each))) is not None:
        yield _search(f"Like {_quoted_title(product)} (fashion: by its photo)", SearchArguments(product_id=product.id))
    elif with_image:
        product = with_image[0]
        yield _search(f"Looks like {_quoted_title(product)}", SearchArguments(product_id=product.id, space="image"))
    if (product := _first(each for each in with_text if not _is_fashion(each))) is not None:
        heading = f"Like {_quoted_title(product)} (not fashion: by its words)"
        yield _search(heading, SearchArguments(product_id=product.id))
    elif with_text:
        product = with_text[0]
        yield _search(f"Reads like {_quoted_title(product)}", SearchArguments(product_id=product.id, space="text"))


def _by_product_id(with_image: Sequence[Product], with_text: Sequence[Product]) -> Iterator[DemoQuery]:
    """A product in the product space, which the policy chooses, then one in the image and one in the text space."""
    fashion = _first(each for each in with_image if _is_fashion(each))
    if (product := fashion or _first([*with_image, *with_text])) is not None:
        heading = f"Like {_quoted_title(product)} (by photo and words together)"
        yield _search(heading, SearchArguments(product_id=product.id))
    if product is not None and product in with_image:
        yield _search(f"Looks like {_quoted_title(product)}", SearchArguments(product_id=product.id, space="image"))
    if (product := _first(each for each in with_text if not _is_fashion(each)) or _first(with_text)) is not None:
        yield _search(f"Reads like {_quoted_title(product)}", SearchArguments(product_id=product.id, space="text"))


def _by_photo(with_image: Sequence[Product], catalogue: Path) -> Iterator[DemoQuery]:
    if (product := _last_with_photo(with_image, catalogue)) is not None:
        photo = catalogue / product.image
        yield _search(f"Like the photo {photo.name} ({_quoted_title(product)})", SearchArguments(image=photo))


def _by_text(with_text: Sequence[Product]) -> Iterator[DemoQuery]:
    """A Japanese and an English title; where there is neither, any title."""
    japanese = _first(product for product in with_text if _is_japanese(product.title))
    english = _first(product for product in with_text if product.title.isascii() and product.title.count(" "))
    other = _first(product for product in with_text if product.title)
    for product in (japanese, english) if japanese or english else (other,):
        if product is not None:
            yield _search(f"Like the words {_quoted_title(product)}", SearchArguments(text=product.title))


def _filtered(products: Sequence[Product], space: str) -> Iterator[DemoQuery]:
    """A search under conditions; of the price only where some are known."""
    priced = [product for product in products if product.HasField("price")]
    if candidates := priced or products:
        product = candidates[len(candidates) // 2]
        search = SearchArguments(
            product_id=product.id, space=space, in_stock=True, exclude_same_shop=True, max_per_shop=1
        )
        at_most = ""
        if priced:
            limit = Product(price=statistics.median_high(each.price for each in priced), currency=product.currency)
            search["max_price"], at_most = limit.price, f", at most {price(limit)}"
        yield _search(f"Like {_quoted_title(product)}, in stock{at_most}, from other shops, one of each", search)


def _two_examples(with_image: Sequence[Product], with_text: Sequence[Product]) -> Iterator[DemoQuery]:
    for products, space in ((with_image, "image"), (with_text, "text")):
        if len(products) >= 2:
            one = products[0]
            other = _first(each for each in products if each.category != one.category) or products[1]
            examples = [example(product_id=one.id, weight=1), example(product_id=other.id, weight=0.5)]
            heading = f"Like {_quoted_title(one)} and, half as much, {_quoted_title(other)}"
            yield _search(heading, SearchArguments(examples=examples, space=space))
            return


def _photo_and_text(with_both: Sequence[Product], catalogue: Path, has_product_space: bool) -> Iterator[DemoQuery]:
    """A photo together with words, and a late fusion of two spaces.

    with_both: products with a photo and a title, if the index has spaces for both.
    """
    if (product := _last_with_photo(with_both, catalogue)) is not None:
        photo = catalogue / product.image
        how = "as one product" if has_product_space else "half by photo, half by words"
        heading = f"Like the photo {photo.name} with the words {_quoted_title(product)} ({how})"
        yield _search(heading, SearchArguments(image=photo, text=product.title))
    if with_both:
        product = with_both[0]
        heading = f"Like {_quoted_title(product)}, 70 % by photo and 30 % by words"
        arguments = SearchArguments(product_id=product.id, weights={"image": 0.7, "text": 0.3}, explain=True)
        yield _search(heading, arguments)


def _classification(with_both: Sequence[Product], with_text: Sequence[Product], catalogue: Path) -> Iterator[DemoQuery]:
    if (product := _last_with_photo(with_both, catalogue)) is not None:
        photo = catalogue / product.image
        heading = f"Which category? The photo {photo.name} with the words {_quoted_title(product)}"
        arguments = ClassifyArguments(image=photo, text=product.title, limit=LIMIT)
        yield DemoQuery(heading=heading, classify=arguments)
    elif (product := _first(each for each in with_text if each.title)) is not None:
        heading = f"Which category? The words {_quoted_title(product)}"
        yield DemoQuery(heading=heading, classify=ClassifyArguments(text=product.title, limit=LIMIT))


def _last_with_photo(products: Sequence[Product], catalogue: Path) -> Product | None:
    """The last product whose photo file exists: another one than the first, which other queries use."""
    return _first(product for product in reversed(products) if (catalogue / product.image).is_file())


def _search(heading: str, arguments: SearchArguments) -> DemoQuery:
    return DemoQuery(heading=heading, search={**arguments, "limit": LIMIT})


def _first(products: Iterable[Product]) -> Product | None:
    return next(iter(products), None)


def _quoted_title(product: Product) -> str:
    """The product's title, else its id, in quotation marks, without control characters, cut to 40 letters."""
    title = printable(product.title or product.id)
    return f"“{title if len(title) <= MAX_TITLE_LETTERS else title[: MAX_TITLE_LETTERS - 1] + '…'}”"


def _is_fashion(product: Product) -> bool:
    return product.category.split("/")[0] == FASHION


def _is_japanese(title: str) -> bool:
    """Whether it has kana: ideographs alone might be Chinese."""
    return any(unicodedata.name(letter, "").startswith(("HIRAGANA", "KATAKANA")) for letter in title)
