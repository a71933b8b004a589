"""Checks of single fields that several requests have: photos, texts, vectors. Pure.

Each raises InvalidRequest, naming the field, for a value out of bounds.
"""

from __future__ import annotations

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_IMAGE_BYTES, MAX_TEXT_BYTES

MAX_DIM = 65536


def check_image(field: str, image: bytes) -> None:
    if not image:
        raise InvalidRequest(field, "is empty")
    if len(image) > MAX_IMAGE_BYTES:
        raise InvalidRequest(field, f"has {len(image)} bytes, at most {MAX_IMAGE_BYTES} are allowed")


def check_text(field: str, text: str) -> None:
    if not text or text.isspace():
        raise InvalidRequest(field, "is empty")
    check_text_length(field, text)


def check_text_length(field: str, text: str) -> None:
    """The text has no more bytes of UTF-8 than the text encoder accepts; it may be empty."""
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidRequest(field, f"has {len(text.encode())} bytes, at most {MAX_TEXT_BYTES} are allowed")


def check_vector_size(field: str, vector: bytes) -> None:
    """The bytes are a float32 vector of 1..MAX_DIM dimensions; the values are not checked."""
    if not vector or len(vector) % 4 or len(vector) > 4 * MAX_DIM:
        raise InvalidRequest(field, f"{len(vector)} bytes are not a float32 vector of 1..{MAX_DIM} dimensions")
