"""The vector spaces by name: "image", "text", "product". Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space

# Those that a vector can be of, by rising number.
VECTOR_SPACES: Mapping[str, Space.ValueType] = {"image": SPACE_IMAGE, "text": SPACE_TEXT, "product": SPACE_PRODUCT}
# Those that a request may name.
SPACES: Mapping[str, Space.ValueType] = {"auto": SPACE_AUTO, **VECTOR_SPACES}


def space_name(space: int) -> str:
    """ "image" for SPACE_IMAGE, as settings, logs, metrics and errors name it."""
    return Space.Name(space).removeprefix("SPACE_").lower()  # type: ignore[arg-type]  # a proto enum value is an int


def space_number(name: str) -> Space.ValueType:
    """SPACE_IMAGE for "image". Raises ValueError for a name that is none of a vector space."""
    if name not in VECTOR_SPACES:
        raise ValueError(f"{name!r} is not one of {', '.join(VECTOR_SPACES)}")
    return VECTOR_SPACES[name]
