"""Types of command-line arguments, for argparse. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number(kind: type[Number], minimum: float, maximum: float) -> Callable[[str], Number]:
    """An argparse `type`: a number from `minimum` to `maximum`, both included."""

    def parse(text: str) -> Number:
        value = kind(text)
        if not minimum <= value <= maximum:  # Written so that NaN fails, too.
            raise argparse.ArgumentTypeError(f"{text} is not in {minimum}..{maximum}")
        return value

    return parse


seed = number(int, 0, 2**31 - 1)  # NumPy takes no negative seeds, faiss none above.
threads = number(int, 0, 256)
