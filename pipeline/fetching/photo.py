"""A fetched photo, and by what a store tells whether it has changed since. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What a photo's store said of its state; empty where it said nothing (RFC 9110, 8.8)."""

    etag: str = ""
    modified: str = ""  # As the store writes it: of HTTP a date, of a file nanoseconds.
    size: int = 0  # Bytes.


@dataclass(frozen=True, slots=True)
class FetchedPhoto:
    """The bytes of a photo's file, at least 1 and at most MAX_IMAGE_BYTES. They may be no photo at all."""

    data: bytes
    validators: Validators


class NotModified(Enum):
    """The type of NOT_MODIFIED."""

    NOT_MODIFIED = "not modified"


NOT_MODIFIED: Final = NotModified.NOT_MODIFIED  # The photo is as it was when its validators were seen.
