"""Types of command-line arguments. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number(kind: type[Number], least: float, most: float) -> Callable[[str], Number]:
    """An argparse `type`: a number from `least` to `most`, both included."""

    def number(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:  # Nor is NaN.
            raise argparse.ArgumentTypeError(f"{text} is not in {least}..{most}")
        return value

    return number


seed = number(int, 0, 2**31 - 1)  # NumPy takes none below, faiss none above.
threads = number(int, 0, 256)
