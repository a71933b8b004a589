"""What command lines share."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from lookalike.cli import arguments


def test_a_number_at_a_bound_is_one_and_beyond_it_none() -> None:
    share = arguments.number(float, 0, 1)
    assert (share("0"), share("1"), arguments.seed("2147483647")) == (0, 1, 2147483647)
    for text in ("-0.1", "1.1", "nan"):
        with pytest.raises(ArgumentTypeError, match=rf"{text} is not in 0\.\.1"):
            share(text)
