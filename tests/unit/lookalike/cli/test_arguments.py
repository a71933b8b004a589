"""Types of command-line arguments."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from lookalike.cli import arguments


def test_a_number_may_be_a_bound_but_not_beyond_it() -> None:
    share = arguments.number(float, 0, 1)
    assert (share("0"), share("1"), arguments.seed("2147483647")) == (0, 1, 2147483647)
    for text in ("-0.1", "1.1", "nan"):
        with pytest.raises(ArgumentTypeError, match=rf"{text} is not in 0\.\.1"):
            share(text)
