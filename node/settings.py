"""The settings of a node: those of a gateway, but for the shards' addresses, and those of shards. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from index.serving.settings import IndexSettings
from lookalike.runtime.settings import setting
from server.settings import ServiceSettings


@dataclass(frozen=True, kw_only=True)
class NodeSettings(ServiceSettings, IndexSettings):
    """A process that serves an index: all its shards, and the services that a gateway has."""

    PREFIX: ClassVar[str] = "LOOKALIKE_NODE_"

    max_shards: int = setting(
        8,
        "how many shards a later version may have; one with more, and than the first, is refused",
        at_least=1,
        at_most=256,
    )
