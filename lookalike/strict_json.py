"""Reads JSON of files that may be damaged, or anybody's. Pure."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for any other.

    As `json.loads`, but lists in lists without end are not a RecursionError, and numbers are finite and no greater
    than a float may be, so that none is an OverflowError later.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("lists or objects are nested too deep") from None


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        _refuse(text)
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no finite number")
