"""Hypothesis strategies that damage bytes and JSON as disks, networks, editors and attackers do. Pure."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import reduce
from typing import Any

from hypothesis import strategies as st

_BLOCKS = (b"", b"\0" * 16, b"\xff" * 16, b"\x7f\xff\xff\xff", b"\0" * 4096, b"[" * 10_000, b'{"a":' * 10_000)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "../..",
    [],
    {},
)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one to four damages: cut, flipped, moved, overwritten, repeated."""
    at = st.integers(0, len(data))
    damages = st.one_of(
        at.map(lambda end: lambda each: each[:end]),
        at.map(lambda begin: lambda each: each[begin:]),
        st.tuples(at, st.integers(1, 255)).map(lambda cut: lambda each: _flipped(each, *cut)),
        st.tuples(at, st.binary(min_size=1, max_size=9)).map(lambda cut: lambda each: _overwritten(each, *cut)),
        st.tuples(at, st.sampled_from(_BLOCKS)).map(lambda cut: lambda each: each[: cut[0]] + cut[1] + each[cut[0] :]),
        st.tuples(at, at, at).map(lambda cut: lambda each: each[: cut[0]] + each[cut[1] : cut[2]] + each[cut[0] :]),
    )
    return st.lists(damages, min_size=1, max_size=4).map(lambda each: reduce(lambda so_far, do: do(so_far), each, data))


def _flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes(each ^ mask for each in data[at : at + 1]) + data[at + 1 :]


def _overwritten(data: bytes, at: int, block: bytes) -> bytes:
    return data[:at] + block + data[at + len(block) :]


def other_json(body: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one to three of its parts replaced, removed, or renamed: it is valid JSON still."""
    paths = list(_paths(body))

    @st.composite
    def changed(draw: Any) -> Any:
        copy = json.loads(json.dumps(body))
        for path in draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3)):
            copy = _replaced(copy, path, deepcopy(draw(st.sampled_from(_VALUES))), draw(st.sampled_from("rrrdn")))
        return copy

    return changed()


def _paths(body: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in items:
        yield from _paths(value, (*path, key))


def _replaced(body: Any, path: tuple[Any, ...], value: Any, how: str) -> Any:
    if not path:
        return value
    *steps, last = path
    at = body
    try:
        for step in steps:
            at = at[step]
        if how == "r":
            at[last] = value
        else:
            taken = at.pop(last)
            if how == "n" and isinstance(at, dict):
                at[f"{last}_"] = taken
    except (KeyError, IndexError, TypeError, AttributeError):  # An earlier replacement took that part away.
        pass
    return body
