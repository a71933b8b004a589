"""The changes of a shard from one version to the next. Reads and writes files.

LIVE_DIR/<shard>/<version>/ holds the changes of a version; LIVE_DIR/<shard>/CURRENT names the version that took updates
last, which knows of all. Whatever is loaded takes over from it what is newer, whether it is still served or was stopped
with the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from prometheus_client import Counter

from index.live.carrying import carry
from index.live.live import Bounds, Live
from index.serving.loaded import LoadedShard
from index.serving.served import Loaded, Served
from index.storage import version
from index.storage.names import shard_name
from lookalike.errors import BadArtifact, OperatorError

log = logging.getLogger(__name__)

LOST = Counter("lookalike_shard_changes_lost", "Changes that a version could not take over whole from another.")


class Succession:
    """load: a version of this shard, as it was built. For one thread that loads and one that writes."""

    def __init__(
        self, served: Served, live_dir: Path, shard: int, bounds: Bounds, load: Callable[[str], Loaded]
    ) -> None:
        self._served = served
        self._shard = shard
        self._directory = live_dir / shard_name(shard)
        self._bounds = bounds
        self._load = load

    def load(self, name: str) -> Loaded:
        """With its changes, and those of the version that took updates last, as far as they have come.

        Raises what `load` does, and OperatorError where another process has its changes open or the disk is full.
        """
        with ExitStack() as release:
            loaded = self._load(name)
            release.callback(loaded.release)
            shard = loaded.shard
            try:
                live = Live(shard.base, shard.manifest, shard.shard, self._directory / name, self._bounds)
                release.callback(live.close)
                if (last := self._last()) not in ("", name) and not self._carried(last, live):
                    self._carried_from_stopped(last, live)
            except OSError as error:
                raise OperatorError(f"changes cannot be kept in {self._directory}: {error}") from error
            return Loaded(shard.taking(live), release.pop_all().close)

    def take_over(self, shard: LoadedShard) -> None:
        """What has come since; from then on it is this version that takes updates."""
        if shard.live is None:
            return
        if (last := self._last()) != shard.live.version:
            if not self._carried(last, shard.live) and self._served.uses():
                raise OperatorError(f"the changes of version {last} are not at hand: it is not served")
            version.make_current(self._directory, shard.live.version)

    def leave(self, name: str) -> None:
        """To be called before a version is dropped: those that stay have taken every update, too."""
        if self._last() == name:
            staying = next(other for other in self._served.uses() if other != name)
            version.make_current(self._directory, staying)

    def _last(self) -> str:
        return version.read_current(self._directory) if (self._directory / version.CURRENT).exists() else ""

    def _carried(self, last: str, live: Live) -> bool:
        """Whether that version is served, so that its changes could be taken over."""
        if last not in self._served.uses():
            return False
        with self._served.lease(last) as before:
            if before.live is not None:
                _carry(before.live, live)
        return True

    def _carried_from_stopped(self, last: str, live: Live) -> None:
        try:
            before = Live.stopped(self._directory / last, self._shard, self._bounds)
        except BadArtifact as error:  # What it took since it was built is lost, but what there is can be served.
            log.critical("the changes of version %s are not in version %s: %s", last, live.version, error)
            LOST.inc()
            return
        with closing(before):
            _carry(before, live)


def _carry(before: Live, live: Live) -> None:
    lost = carry(before, live)
    LOST.inc(lost.changes)
    for reason in sorted(lost.reasons):
        log.error("version %s lacks changes of version %s: %s", live.version, before.version, reason)
