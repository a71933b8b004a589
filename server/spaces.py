"""The spaces by name, and what counts in which. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from protos.lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space

SPACES: Mapping[str, Space.ValueType] = {"image": SPACE_IMAGE, "text": SPACE_TEXT, "product": SPACE_PRODUCT}


def space_name(space: Space.ValueType) -> str:
    """ "image" for SPACE_IMAGE, as logs, metrics and errors name it."""
    return Space.Name(space).removeprefix("SPACE_").lower()


@cache  # Of at most seven.
def spaces_name(spaces: tuple[Space.ValueType, ...]) -> str:
    """ "image+text" for both, as metrics name them."""
    return "+".join(map(space_name, spaces))
