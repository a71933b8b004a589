"""Load a version of a shard: pin its files, map them, warm it up. Does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from index.search.space import DevicePlacement
from index.serving.shard_version import ShardVersion, map_shard
from index.serving.versions import ShardHandle, handle_of
from lookalike.errors import BadArtifact
from lookalike.releases.location import Location
from lookalike.releases.names import shard_name
from lookalike.releases.rollout import NoPart
from lookalike.releases.settings import PinFiles

WARM_UP_QUERIES = 64


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads versions of one shard of a location by their names."""

    location: Location
    shard: int
    pin_files: PinFiles
    max_shards: int | None = None  # Of a version; None: any number.
    # Fingerprint of the encoder that each space must have; a space that is not named may have any.
    expected_encoders: Mapping[str, str] = field(default_factory=dict)
    placement: DevicePlacement | None = None  # Where ANN indexes are placed; None: they stay in memory.

    def __call__(self, name: str) -> ShardHandle:
        """Raises OperatorError; BadArtifact where the version itself is at fault, NoPart where it has no such shard."""
        manifest = self.location.read_manifest(name)
        if self.max_shards is not None and manifest.shards > self.max_shards:
            raise BadArtifact(
                f"{self.location}: it has {manifest.shards} shards, this process serves at most {self.max_shards}"
            )
        if self.shard >= manifest.shards:
            raise NoPart(f"it has {manifest.shards} shards, this is shard {self.shard}")
        for space in manifest.spaces:
            if space.encoder != (expected := self.expected_encoders.get(space.name, space.encoder)):
                raise BadArtifact(
                    f"{self.location}: its {space.name} vectors are of encoder {space.encoder}, expected {expected}"
                )
        with ExitStack() as release:
            pinned = self.pin_files(manifest, shard_name(self.shard))
            release.callback(pinned.release)
            shard = map_shard(pinned.location, manifest, self.shard, self.placement)
            _warm_up(shard)
            return handle_of(shard, release.pop_all().close)


def _warm_up(shard: ShardVersion) -> None:
    """Search with vectors of the shard itself, and look an id up: the first query finds pages and caches warm."""
    shard.base.find(b"")
    for space in shard.base.spaces:
        shard.search(list(shard.sample_queries(space, WARM_UP_QUERIES)))
