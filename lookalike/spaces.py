"""The names of the vector spaces: "image", "text", "product". Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space

# The spaces that vectors lie in, by rising number.
VECTOR_SPACES: Mapping[str, Space.ValueType] = {"image": SPACE_IMAGE, "text": SPACE_TEXT, "product": SPACE_PRODUCT}
# The names that a request may use: the spaces, and "auto" to let the gateway choose.
SPACES: Mapping[str, Space.ValueType] = {"auto": SPACE_AUTO, **VECTOR_SPACES}


def space_name(space: int) -> str:
    """The name of a space in settings, logs, metrics and errors: "image" for SPACE_IMAGE."""
    return Space.Name(space).removeprefix("SPACE_").lower()  # type: ignore[arg-type]  # a proto enum value is an int


def space_number(name: str) -> Space.ValueType:
    """The enum value of a vector space: SPACE_IMAGE for "image". Raises ValueError for any other name."""
    if name not in VECTOR_SPACES:
        raise ValueError(f"{name!r} is not one of {', '.join(VECTOR_SPACES)}")
    return VECTOR_SPACES[name]
