"""Migrate the updates of a shard from one version to the next, as versions are loaded and dropped. Does file I/O.

LIVE_DIR/<shard>/<version>/ holds the changes of a version; LIVE_DIR/<shard>/CURRENT names the version that took updates
last, which has every change. Each version that is loaded takes from it what is newer, whether it is still served or its
process was stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Lock

from index.live.live_shard import LiveLimits, LiveShard
from index.live.migration import migrate_changes
from index.serving import metrics
from index.serving.shard_version import ShardVersion
from index.serving.versions import ShardHandle, ShardVersions, handle_of
from lookalike.errors import BadArtifact, FailedPrecondition, OperatorError, Unavailable
from lookalike.releases import version
from lookalike.releases.names import shard_name
from lookalike.v1.index_pb2 import AwaitedChanges

log = logging.getLogger(__name__)


class ChangeMigration:
    """Loads versions with the changes of the version before. For one thread that loads and one that writes.

    A version of another number of shards awaits the changes of the version before: other shards have a part of them.

    load_base: loads a version of this shard as it was built.
    list_versions: the versions that there are; what was kept of the changes of others is removed.
    """

    def __init__(
        self,
        served: ShardVersions,
        live_dir: Path,
        shard: int,
        limits: LiveLimits,
        *,
        load_base: Callable[[str], ShardHandle],
        list_versions: Callable[[], Sequence[str]],
    ) -> None:
        self._served = served
        self._shard = shard
        self._directory = live_dir / shard_name(shard)
        self._limits = limits
        self._load_base = load_base
        self._list_versions = list_versions
        self._latest: str | None = None  # As CURRENT has it; None: it has not been read.
        self._shards: dict[str, int | None] = {}  # Of versions that were looked up.
        self._stopped: dict[str, LiveShard] = {}  # Changes of versions that are not loaded, while they are handed over.
        self._opening = Lock()

    def load(self, name: str) -> ShardHandle:
        """Load a version with its own changes and those, until now, of the version that took updates last.

        Raises what `load_base` does, and OperatorError if another process has its changes open or the disk is full.
        """
        with ExitStack() as release:
            base = self._load_base(name)
            release.callback(base.release)
            shard = base.loaded
            try:
                self.close(name)
                live = LiveShard(shard.base, shard.manifest, shard.shard, self._directory / name, self._limits)
                release.callback(live.close)
                latest = self.latest_version()
                if (
                    latest not in ("", name)
                    and self.awaited(shard) is None
                    and not self._migrate_from_served(latest, live)
                ):
                    self._migrate_from_disk(latest, live)
                self._prune({name, latest, *self._served.uses(), *self._list_versions()})
            except OSError as error:
                raise OperatorError(f"cannot keep changes in {self._directory}: {error}") from error
            return handle_of(shard.with_live(live), release.pop_all().close)

    def finish(self, shard: ShardVersion) -> None:
        """Migrate the changes since `load`; from then on it is this version that takes updates."""
        if shard.live is None or self.awaited(shard) is not None:
            return
        if (latest := self.latest_version()) != shard.live.version:
            if not self._migrate_from_served(latest, shard.live) and self._served.uses():
                raise OperatorError(f"the changes of version {latest} cannot be migrated: it is not served")
            self.make_latest(shard.live.version)

    def before_drop(self, name: str) -> None:
        """Call it before a version is dropped: CURRENT then names one that stays, which has every update, too."""
        if self.latest_version() == name:
            for other in self._served.uses():
                if other != name and self._shards_of(other) == self._shards_of(name):
                    self.make_latest(other)
                    return

    def latest_version(self) -> str:
        """The version that took updates last, maybe in other shards; empty: none has."""
        if self._latest is None:
            exists = (self._directory / version.CURRENT).exists()
            self._latest = version.read_current(self._directory) if exists else ""
        return self._latest

    def make_latest(self, name: str) -> None:
        """From now on it is this version that takes updates. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        version.make_current(self._directory, name)
        self._latest = name
        self.close()

    def finish_handover(self, name: str) -> None:
        """As `make_latest`, of a version that a caller names. Raises FailedPrecondition, Unavailable, OSError."""
        try:
            known = name in self._served.uses() or name in self._list_versions()
        except OperatorError as error:
            raise Unavailable(f"whether there is a version {name!r} is not known: {error}") from error
        if not known:
            raise FailedPrecondition(f"there is no version {name!r}")
        self.make_latest(name)

    def awaited(self, shard: ShardVersion) -> AwaitedChanges | None:
        """The version whose changes this one lacks, as it is of another number of shards; None: it lacks none."""
        latest = self.latest_version()
        if latest in ("", shard.manifest.version):
            return None
        shards = self._shards_of(latest)
        return None if shards in (None, shard.manifest.shards) else AwaitedChanges(version=latest, shards=shards)

    @contextmanager
    def changes_of(self, name: str) -> Iterator[LiveShard]:
        """The changes of a version that a caller names, loaded or not. Raises FailedPrecondition where there are none.

        The name of no version is no path: it may be of any characters, and lead anywhere.
        """
        if name in self._served.uses():
            with self._served.lease(name) as shard:
                if shard.live is None:
                    raise FailedPrecondition("this shard takes no updates: it was started without --live-dir")
                yield shard.live
            return
        if not version.is_version_name(name) or not (self._directory / name / version.MANIFEST).exists():
            raise FailedPrecondition(f"this shard has no changes of version {name!r}")
        with self._opening:
            if name not in self._stopped:
                try:
                    opened = LiveShard.open_changes(self._directory / name, self._shard, self._limits)
                except (BadArtifact, OSError) as error:
                    what = f"the changes of version {name} cannot be read"
                    raise FailedPrecondition(f"{what}: {error}").hidden_as(what) from error
                self._stopped[name] = opened
        yield self._stopped[name]

    def close(self, name: str = "") -> None:
        """Close the changes of a version that is not loaded, or of all such."""
        with self._opening:
            for each in [name] if name else [*self._stopped]:
                if (stopped := self._stopped.pop(each, None)) is not None:
                    stopped.close()

    def _prune(self, kept: set[str]) -> None:
        """Remove the changes of versions that are gone: nobody can go back to them."""
        for path in self._directory.iterdir():
            if path.is_dir() and path.name not in kept and path.name not in self._stopped:
                log.info("the changes of version %s are removed, as it is gone", path.name)
                shutil.rmtree(path)

    def _shards_of(self, name: str) -> int | None:
        """How many shards a version has; 0: this one is none of them; None: what is kept of its changes is damaged."""
        if name not in self._shards:
            if not (self._directory / name).exists():
                return 0
            try:
                self._shards[name] = version.read_manifest(self._directory, name).shards
            except BadArtifact:
                self._shards[name] = None
        return self._shards[name]

    def _migrate_from_served(self, latest: str, live: LiveShard) -> bool:
        """Migrate the changes of a version if it is served. Returns whether it is."""
        if latest not in self._served.uses():
            return False
        with self._served.lease(latest) as shard:
            if shard.live is not None:
                _migrate(shard.live, live)
        return True

    def _migrate_from_disk(self, latest: str, live: LiveShard) -> None:
        try:
            stopped = LiveShard.open_changes(self._directory / latest, self._shard, self._limits)
        except BadArtifact as error:  # The updates since it was built are lost, but the new version can be served.
            log.critical("the changes of version %s are not in version %s: %s", latest, live.version, error)
            metrics.CHANGES_LOST.inc()
            live.note_losses(["they cannot be read"])
            return
        with closing(stopped):
            _migrate(stopped, live)


def _migrate(old: LiveShard, new: LiveShard) -> None:
    loss = migrate_changes(old, new)
    metrics.CHANGES_LOST.inc(loss.changes)
    new.note_loss(loss.by_product)
    for reason in sorted(loss.reasons):
        log.error("version %s lacks changes of version %s: %s", new.version, old.version, reason)
