"""Parsing a ClassifyRequest, field by field."""

from __future__ import annotations

import pytest

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from lookalike.v1.search_pb2 import ClassifyRequest
from server.classify_request import parse_classify_request

MALFORMED: dict[str, tuple[ClassifyRequest, str]] = {
    "nothing": (ClassifyRequest(), "product_id"),
    "a product and a photo": (ClassifyRequest(product_id="p", image=b"i"), "image"),
    "a product and a text": (ClassifyRequest(product_id="p", text="t"), "text"),
    "an empty id": (ClassifyRequest(product_id=""), "product_id"),
    "an empty photo": (ClassifyRequest(image=b"", text="t"), "image"),
    "a photo over 8 MB": (ClassifyRequest(image=bytes(MAX_IMAGE_BYTES + 1)), "image"),
    "a blank text": (ClassifyRequest(image=b"i", text=" "), "text"),
    "a text over 64 KiB": (ClassifyRequest(text="x" * (MAX_TEXT_BYTES + 1)), "text"),
    "limit 0": (ClassifyRequest(text="t", limit=0), "limit"),
    "limit 101": (ClassifyRequest(text="t", limit=101), "limit"),
    "precision below a half": (ClassifyRequest(text="t", precision=0.49), "precision"),
    "precision 1": (ClassifyRequest(text="t", precision=1), "precision"),
    "precision NaN": (ClassifyRequest(text="t", precision=float("nan")), "precision"),
}


@pytest.mark.parametrize(("request_", "field"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_classify_request_is_refused_with_its_field(request_: ClassifyRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_classify_request(request_)
    assert refused.value.field == field


def test_limit_and_precision_have_defaults() -> None:
    input_ = parse_classify_request(ClassifyRequest(image=b"i", text="t"))
    assert (input_.product_id, input_.image, input_.text) == (None, b"i", "t")
    assert (input_.limit, input_.precision) == (5, 0.9)


def test_a_classify_request_at_its_bounds_is_accepted() -> None:
    parse_classify_request(ClassifyRequest(product_id="é" * 128, limit=100, precision=0.99))
    parse_classify_request(ClassifyRequest(text="t", limit=1, precision=0.5))
