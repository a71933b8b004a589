"""A version on its way to being served: its files held, mapped, warmed up. Does I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from index.search.space import DevicePlacement
from index.serving.loaded import LoadedShard, mapped
from index.serving.served import Loaded
from index.storage.location import Location, PinnedFiles
from index.storage.manifest import Manifest
from lookalike.errors import BadArtifact

WARM_UP_QUERIES = 64
Hold = Callable[[Manifest, int], PinnedFiles]  # The files of a shard, verified. Raises OperatorError.


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads versions of one shard of a location by their names."""

    location: Location
    shard: int
    hold: Hold
    expected: Mapping[str, str] = field(default_factory=dict)  # Encoders, by space; of other spaces any will do.
    place: DevicePlacement | None = None  # Where codes are put; None: they stay in memory.

    def __call__(self, name: str) -> Loaded:
        """Raises OperatorError: BadArtifact where the version is at fault."""
        manifest = self.location.read_manifest(name)
        for space in manifest.spaces:
            if space.encoder != (wanted := self.expected.get(space.name, space.encoder)):
                raise BadArtifact(f"{self.location}: its {space.name} vectors are of {space.encoder}, not of {wanted}")
        with ExitStack() as release:
            held = self.hold(manifest, self.shard)
            release.callback(held.release)
            shard = mapped(held.location, manifest, self.shard, self.place)
            _warm_up(shard)
            return Loaded(shard, release.pop_all().close)


def _warm_up(shard: LoadedShard) -> None:
    """Search it with vectors of its own, so that the first query finds pages and caches warm."""
    for space in shard.base.spaces:
        shard.search(list(shard.sample(space, WARM_UP_QUERIES)))
