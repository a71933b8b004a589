"""Build the requests that search and read the catalogue from keyword arguments. Reads photo files; no other I/O.

Only values that the messages cannot hold are refused here; the server checks everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Unpack

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_BATCH, MAX_IMAGE_BYTES, MAX_MESSAGE_BYTES
from lookalike.spaces import SPACES, VECTOR_SPACES
from lookalike.timestamps import unix_s
from lookalike.v1.catalog_pb2 import GetRequest, ListRequest
from lookalike.v1.search_pb2 import (
    BatchSearchRequest,
    ClassifyRequest,
    Example,
    FindDuplicatesRequest,
    SearchRequest,
    SearchStreamRequest,
)
from lookalike.v1.types_pb2 import Filter, Space, SpaceWeight

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Vector: TypeAlias = "npt.NDArray[np.floating] | Sequence[float]"


class _ListFilterArguments(TypedDict, total=False):
    """The filter arguments that are lists: none of them empty; None is no condition."""

    category_in: Sequence[str] | None  # "fashion" matches itself and every category below it.
    category_not_in: Sequence[str] | None
    shop_in: Sequence[str] | None
    shop_not_in: Sequence[str] | None
    currency_in: Sequence[str] | None  # ISO 4217: "JPY".
    tags_any: Sequence[str] | None  # At least one of these.
    tags_all: Sequence[str] | None
    tags_none: Sequence[str] | None
    any_of: Sequence[Filter] | None  # Each made by `conditions(...)`; may be nested.
    all_of: Sequence[Filter] | None
    none_of: Sequence[Filter] | None


class FilterArguments(_ListFilterArguments, total=False):
    """The conditions that a product must pass, all of them."""

    min_price: float | None  # Inclusive. A product of unknown price passes neither bound.
    max_price: float | None  # Inclusive.
    has_price: bool | None  # Whether the price is known.
    in_stock: bool | None
    created_after: datetime | date | int | None  # Exclusive; a number is seconds since 1970; without a time zone, UTC.


class SearchArguments(FilterArguments, total=False):
    """The arguments of a search: one of product_id, image, text and vector, or image and text, or `examples`."""

    product_id: str | None
    image: bytes | Path | None  # An encoded photo, or the file that holds it.
    text: str | None
    vector: Vector | None  # One vector of the space's dimension; its norm does not matter.
    examples: Sequence[Example]  # Made by `example(...)`.
    space: str  # "auto" (default), "image", "text" or "product"; a vector needs one of the last three.
    weights: Mapping[str, float] | None  # Late fusion: {"image": 0.7, "text": 0.3}, without `space`.
    limit: int | None  # Default: 10.
    exclude_same_shop: bool
    max_per_shop: int | None
    min_score: float | None
    diversity: float  # 0..1: how strongly hits that resemble better hits are pushed down. Default: 0.
    exact: bool
    min_coverage: float | None
    explain: bool  # Return each hit's score in each space, and what each part of the query contributed to it.
    routing_key: str  # Of a user or session: all its requests are answered by one version while another is tried.


class DuplicatesArguments(FilterArguments, total=False):
    """The arguments of a search for duplicates: one of product_id, image, text and vector, and filters."""

    product_id: str | None
    image: bytes | Path | None  # An encoded photo, or the file that holds it.
    text: str | None
    vector: Vector | None
    space: str  # Default: "image"; for a text "text".
    min_score: float | None  # Default: as measured when the version was built; 0.95 if it was not.
    limit: int | None  # Default: 100.
    exclude_same_shop: bool
    exact: bool
    min_coverage: float | None
    explain: bool


class ClassifyArguments(TypedDict, total=False):
    """The arguments of a classification: a product of the catalogue, or the photo, the text or both of any product."""

    product_id: str | None
    image: bytes | Path | None  # An encoded photo, or the file that holds it.
    text: str | None
    limit: int | None  # Maximum number of categories returned. Default: 5.
    precision: float | None  # 0.5..0.99: required share of right answers among those with a category. Default: 0.9.


def search_request(
    *,
    product_id: str | None = None,
    image: bytes | Path | None = None,
    text: str | None = None,
    vector: Vector | None = None,
    examples: Sequence[Example] = (),
    space: str = "auto",
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    exclude_same_shop: bool = False,
    max_per_shop: int | None = None,
    min_score: float | None = None,
    diversity: float = 0.0,
    exact: bool = False,
    min_coverage: float | None = None,
    explain: bool = False,
    routing_key: str = "",
    **filter_arguments: Unpack[FilterArguments],
) -> SearchRequest:
    """Build a SearchRequest. Raises InvalidRequest for values that the message cannot hold."""
    if any(source is not None for source in (product_id, image, text, vector)):
        if examples:
            raise InvalidRequest("examples", "give either examples or one of product_id, image, text and vector")
        examples = _examples(product_id, image, text, vector)
    request = SearchRequest(
        examples=examples,
        space=_space(space),
        weights=[_space_weight(name, weight) for name, weight in (weights or {}).items()],
        limit=check_uint("limit", limit, bits=32),
        filter=conditions(**filter_arguments),
        exclude_same_shop=exclude_same_shop,
        max_per_shop=check_uint("max_per_shop", max_per_shop, bits=32),
        min_score=min_score,
        diversity=diversity,
        routing_key=routing_key,
        exact=exact,
        min_coverage=min_coverage,
        explain=explain,
    )
    if (size_bytes := request.ByteSize()) > MAX_MESSAGE_BYTES:
        raise InvalidRequest("examples", f"the request has {size_bytes} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    return request


def batch_request(searches: Sequence[SearchArguments | SearchRequest]) -> BatchSearchRequest:
    """The message of several searches. Raises InvalidRequest for what the messages cannot hold, naming its place."""
    if len(searches) > MAX_BATCH:
        raise InvalidRequest("requests", f"{len(searches)} searches, at most {MAX_BATCH} are allowed in a batch")
    requests = []
    for i, search in enumerate(searches):
        try:
            requests.append(search if isinstance(search, SearchRequest) else search_request(**search))
        except InvalidRequest as error:
            raise InvalidRequest(f"requests[{i}].{error.field}", error.reason) from error
    batch = BatchSearchRequest(requests=requests)
    if (size_bytes := batch.ByteSize()) > MAX_MESSAGE_BYTES:
        raise InvalidRequest("requests", f"{size_bytes} bytes together, at most {MAX_MESSAGE_BYTES} are allowed")
    return batch


def stream_requests(searches: Iterable[SearchArguments | SearchRequest]) -> Iterator[SearchStreamRequest]:
    """A message per search, with its position as id. Raises InvalidRequest for what a message cannot hold."""
    for i, search in enumerate(searches):
        request = search if isinstance(search, SearchRequest) else search_request(**search)
        yield SearchStreamRequest(id=i, request=request)


def duplicates_request(
    *,
    product_id: str | None = None,
    image: bytes | Path | None = None,
    text: str | None = None,
    vector: Vector | None = None,
    space: str = "auto",
    min_score: float | None = None,
    limit: int | None = None,
    exclude_same_shop: bool = False,
    exact: bool = False,
    min_coverage: float | None = None,
    explain: bool = False,
    **filter_arguments: Unpack[FilterArguments],
) -> FindDuplicatesRequest:
    """Build a FindDuplicatesRequest. Raises InvalidRequest for values that the message cannot hold."""
    return FindDuplicatesRequest(
        example=example(product_id=product_id, image=image, text=text, vector=vector),
        space=_space(space),
        min_score=min_score,
        limit=check_uint("limit", limit, bits=32),
        filter=conditions(**filter_arguments),
        exclude_same_shop=exclude_same_shop,
        exact=exact,
        min_coverage=min_coverage,
        explain=explain,
    )


def classify_request(
    *,
    product_id: str | None = None,
    image: bytes | Path | None = None,
    text: str | None = None,
    limit: int | None = None,
    precision: float | None = None,
) -> ClassifyRequest:
    """Build a ClassifyRequest. Raises InvalidRequest for values that the message cannot hold."""
    return ClassifyRequest(
        product_id=product_id,
        image=read_photo(image) if isinstance(image, Path) else image,
        text=text,
        limit=check_uint("limit", limit, bits=32),
        precision=precision,
    )


def example(
    *,
    product_id: str | None = None,
    image: bytes | Path | None = None,
    text: str | None = None,
    vector: Vector | None = None,
    weight: float | None = None,
) -> Example:
    """One example of what to find or, with a negative weight, of what to avoid. Raises InvalidRequest."""
    return Example(
        product_id=product_id,
        image=read_photo(image) if isinstance(image, Path) else image,
        text=text,
        vector=None if vector is None else pack_vector(vector),
        weight=weight,
    )


def _examples(
    product_id: str | None, image: bytes | Path | None, text: str | None, vector: Vector | None
) -> Sequence[Example]:
    """One example, or two for a photo with a text, which the server combines as those of one product.

    Any other combination goes to the server as one example, and the server's error names the field at fault.
    """
    if image is not None and text is not None and product_id is None and vector is None:
        return [example(image=image), example(text=text)]
    return [example(product_id=product_id, image=image, text=text, vector=vector)]


def _space(name: str) -> Space.ValueType:
    if name not in SPACES:
        raise InvalidRequest("space", f"{name!r} is not one of {', '.join(SPACES)}")
    return SPACES[name]


def _space_weight(name: str, weight: float) -> SpaceWeight:
    if name not in SPACES:
        raise InvalidRequest("weights", f"{name!r} is not one of {', '.join(SPACES)}")
    return SpaceWeight(space=SPACES[name], weight=weight)


def conditions(
    *,
    min_price: float | None = None,
    max_price: float | None = None,
    has_price: bool | None = None,
    in_stock: bool | None = None,
    created_after: datetime | date | int | None = None,
    **lists: Unpack[_ListFilterArguments],
) -> Filter:
    """Build a Filter. Raises InvalidRequest for values that the message cannot hold, and for an empty list."""
    for name, values in lists.items():
        if name not in _ListFilterArguments.__annotations__:
            raise InvalidRequest(
                f"filter.{name}", f"no such condition; the conditions are {', '.join(FilterArguments.__annotations__)}"
            )
        if isinstance(values, str):  # "ab" would mean "a" and "b".
            raise InvalidRequest(f"filter.{name}", f"expected a list of strings: [{values!r}]")
        if values is not None and not len(values):  # type: ignore[arg-type]  # a sequence; the message cannot tell it from none
            raise InvalidRequest(f"filter.{name}", "is an empty list; leave the condition out if all products may pass")
    try:
        created_after_s = None if created_after is None else unix_s(created_after)
    except ValueError as error:
        raise InvalidRequest("filter.created_after", str(error)) from None
    return Filter(
        **lists,
        min_price=min_price,
        max_price=max_price,
        has_price=has_price,
        in_stock=in_stock,
        created_after=created_after_s,
    )


def get_request(product_id: str, spaces: Iterable[str] = ()) -> GetRequest:
    """Build a GetRequest, with the spaces whose vectors to return. Raises InvalidRequest for any other name."""
    return GetRequest(product_id=product_id, vectors=[vector_space("spaces", space) for space in spaces])


def list_request(after: str, limit: int | None, descriptions: bool, filter_arguments: FilterArguments) -> ListRequest:
    """Build a ListRequest. Raises InvalidRequest for values that the message cannot hold."""
    return ListRequest(
        filter=conditions(**filter_arguments),
        after=after,
        limit=check_uint("limit", limit, bits=64),
        descriptions=descriptions,
    )


def vector_space(field: str, name: str) -> Space.ValueType:
    """The number of a space that vectors lie in. Raises InvalidRequest for any other name."""
    if name not in VECTOR_SPACES:
        raise InvalidRequest(field, f"{name!r} is not one of {', '.join(VECTOR_SPACES)}")
    return VECTOR_SPACES[name]


def check_uint(name: str, value: int | None, *, bits: int) -> int | None:
    """`value`, checked to fit an unsigned integer field of `bits` bits. Raises InvalidRequest."""
    if value is not None and not 0 <= value < 1 << bits:
        raise InvalidRequest(name, f"{value} is not in 0..{(1 << bits) - 1}")
    return value


def read_photo(path: Path) -> bytes:
    """The bytes of a photo's file. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest("image", f"{path}: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidRequest("image", f"{path}: larger than {MAX_IMAGE_BYTES} bytes")
    return data


def pack_vector(vector: Vector) -> bytes:
    """One vector of any dtype as float32. Raises InvalidRequest for an array of another shape."""
    import numpy as np  # Half of what `import lookalike.client` would take; only vectors need it.

    from lookalike.vectors import pack

    row = np.asarray(vector, dtype=np.float32)
    if row.ndim != 1:
        raise InvalidRequest("vector", f"expected one vector, not an array of shape {row.shape}")
    return pack(row)
