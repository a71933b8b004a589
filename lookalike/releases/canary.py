"""A version that answers a share of requests before it serves all: LOCATION/CANARY. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from lookalike.errors import BadArtifact
from lookalike.strict_json import parse_json

CANARY = "CANARY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A version beside the current one, and the share of requests that it answers, above 0 and at most 1."""

    version: str
    share: float


def dump_canary(canary: Canary) -> str:
    return json.dumps(asdict(canary)) + "\n"


def parse_canary(text: str, where: str) -> Canary:
    """The inverse of `dump_canary`. Raises BadArtifact, whose message begins with `where`."""
    try:
        body = parse_json(text)
        canary = Canary(version=str(body["version"]), share=float(body["share"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{where}: not a canary: {error!r}") from error
    if not 0 < canary.share <= 1:  # Written so that NaN fails too.
        raise BadArtifact(f"{where}: the share {canary.share} is not above 0 and at most 1")
    return canary
