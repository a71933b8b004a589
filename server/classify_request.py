"""Parse and check a ClassifyRequest. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_CATEGORIES
from lookalike.runtime.product_fields import check_product_id
from lookalike.v1 import search_pb2
from server.checks import check_image, check_text

DEFAULT_CATEGORIES = 5
MIN_PRECISION, DEFAULT_PRECISION, MAX_PRECISION = 0.5, 0.9, 0.99


@dataclass(frozen=True, slots=True)
class ClassifyQuery:
    """A checked ClassifyRequest, with its defaults filled in: a product id, or a photo, a text or both."""

    product_id: str | None
    image: bytes | None
    text: str | None
    limit: int
    precision: float


_CHECKS: Mapping[Literal["product_id", "image", "text"], Callable[[str, Any], None]] = {
    "product_id": check_product_id,
    "image": check_image,
    "text": check_text,
}


def parse_classify_request(request: search_pb2.ClassifyRequest) -> ClassifyQuery:
    """Parse a request. Raises InvalidRequest naming the first invalid field."""
    fields = [field for field in _CHECKS if request.HasField(field)]
    if not fields:
        raise InvalidRequest("product_id", "set it, or image, or text, or image and text")
    if "product_id" in fields and len(fields) > 1:
        raise InvalidRequest(fields[1], "cannot be combined with product_id: the catalogue has the product's own")
    for field in fields:
        _CHECKS[field](field, getattr(request, field))
    limit = request.limit if request.HasField("limit") else DEFAULT_CATEGORIES
    if not 1 <= limit <= MAX_CATEGORIES:
        raise InvalidRequest("limit", f"{limit} is not in 1..{MAX_CATEGORIES}")
    precision = request.precision if request.HasField("precision") else DEFAULT_PRECISION
    if not MIN_PRECISION <= precision <= MAX_PRECISION:  # NaN fails, too.
        raise InvalidRequest("precision", f"{precision} is not in {MIN_PRECISION}..{MAX_PRECISION}")
    return ClassifyQuery(
        product_id=request.product_id if "product_id" in fields else None,
        image=request.image if "image" in fields else None,
        text=request.text if "text" in fields else None,
        limit=limit,
        precision=precision,
    )
