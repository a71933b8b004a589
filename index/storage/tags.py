"""The tags of a product: bounded in number and length, unique, sorted. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MAX_TAGS = 32
MAX_TAG_BYTES = 64
SEPARATOR = "|"  # Between tags in one text, as in CSV.


def split_tags(text: str) -> list[str]:
    """Split tags that are written as one text: "colour:red|women". Empty text has no tags."""
    return text.split(SEPARATOR) if text.strip() else []


def normalise_tags(tags: Iterable[str]) -> list[str]:
    """Strip, deduplicate and sort tags. Raises ValueError with the limit that they break."""
    normal = sorted({tag.strip() for tag in tags})
    if "" in normal:
        raise ValueError("an empty tag")
    if (longest := max((len(tag.encode()) for tag in normal), default=0)) > MAX_TAG_BYTES:
        raise ValueError(f"a tag of {longest} bytes, {MAX_TAG_BYTES} are allowed")
    if len(normal) > MAX_TAGS:
        raise ValueError(f"{len(normal)} tags, {MAX_TAGS} are allowed")
    return normal
