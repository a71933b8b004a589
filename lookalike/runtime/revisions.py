"""The revision of a change: above 0, and not far ahead of the clock. Pure."""

from __future__ import annotations

from lookalike import product_rules
from lookalike.errors import InvalidRequest
from lookalike.product_rules import BadField


def check_revision(revision: int, greatest: int) -> None:
    """Raises InvalidRequest for 0, and for a revision above `max_revision`."""
    if not revision:
        raise InvalidRequest("revision", "is 0; it must be above 0, and greater than that of every earlier change")
    try:
        product_rules.check_revision(revision, greatest)
    except BadField as bad:
        raise InvalidRequest("revision", bad.detail) from None
