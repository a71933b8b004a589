"""Migrate the updates of a shard from one version to the next, as versions are loaded and dropped. Does file I/O.

LIVE_DIR/<shard>/<version>/ holds the changes of a version; LIVE_DIR/<shard>/CURRENT names the version that took updates
last, which has every change. Each version that is loaded takes from it what is newer, whether it is still served or its
process was stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from index.live.live_shard import LiveLimits, LiveShard
from index.live.migration import migrate_changes
from index.serving import metrics
from index.serving.shard_version import ShardVersion
from index.serving.versions import ShardHandle, ShardVersions, handle_of
from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases import version
from lookalike.releases.names import shard_name

log = logging.getLogger(__name__)


class ChangeMigration:
    """Loads versions with the changes of the version before. For one thread that loads and one that writes.

    load_base: loads a version of this shard as it was built.
    """

    def __init__(
        self,
        served: ShardVersions,
        live_dir: Path,
        shard: int,
        limits: LiveLimits,
        load_base: Callable[[str], ShardHandle],
    ) -> None:
        self._served = served
        self._shard = shard
        self._directory = live_dir / shard_name(shard)
        self._limits = limits
        self._load_base = load_base

    def load(self, name: str) -> ShardHandle:
        """Load a version with its own changes and those, until now, of the version that took updates last.

        Raises what `load_base` does, and OperatorError if another process has its changes open or the disk is full.
        """
        with ExitStack() as release:
            base = self._load_base(name)
            release.callback(base.release)
            shard = base.loaded
            try:
                live = LiveShard(shard.base, shard.manifest, shard.shard, self._directory / name, self._limits)
                release.callback(live.close)
                latest = self._latest_version()
                if latest not in ("", name) and not self._migrate_from_served(latest, live):
                    self._migrate_from_disk(latest, live)
            except OSError as error:
                raise OperatorError(f"cannot keep changes in {self._directory}: {error}") from error
            return handle_of(shard.with_live(live), release.pop_all().close)

    def finish(self, shard: ShardVersion) -> None:
        """Migrate the changes since `load`; from then on it is this version that takes updates."""
        if shard.live is None:
            return
        if (latest := self._latest_version()) != shard.live.version:
            if not self._migrate_from_served(latest, shard.live) and self._served.uses():
                raise OperatorError(f"the changes of version {latest} cannot be migrated: it is not served")
            version.make_current(self._directory, shard.live.version)

    def before_drop(self, name: str) -> None:
        """Call it before a version is dropped: CURRENT then names one that stays, which has every update, too."""
        if self._latest_version() == name:
            remaining = next(other for other in self._served.uses() if other != name)
            version.make_current(self._directory, remaining)

    def _latest_version(self) -> str:
        """The version that took updates last; empty: none has."""
        return version.read_current(self._directory) if (self._directory / version.CURRENT).exists() else ""

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
            live.note_loss(1, [f"they cannot be read: {error}"])
            return
        with closing(stopped):
            _migrate(stopped, live)


def _migrate(old: LiveShard, new: LiveShard) -> None:
    loss = migrate_changes(old, new)
    metrics.CHANGES_LOST.inc(loss.changes)
    new.note_loss(loss.changes, loss.reasons)
    for reason in sorted(loss.reasons):
        log.error("version %s lacks changes of version %s: %s", new.version, old.version, reason)
