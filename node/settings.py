"""The settings of a node: those of a gateway, but for the shards' addresses, and those of shards. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from index.serving.settings import IndexSettings
from server.settings import ServiceSettings


@dataclass(frozen=True, kw_only=True)
class NodeSettings(ServiceSettings, IndexSettings):
    """A process that serves an index: all its shards, and the services that a gateway has."""

    PREFIX: ClassVar[str] = "LOOKALIKE_NODE_"
