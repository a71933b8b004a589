"""The versions of a shard that are served: their types, their states, and the metrics of their rollout. In memory."""

from __future__ import annotations

from collections.abc import Callable

from index.serving import metrics
from index.serving.shard_version import ShardVersion
from lookalike.releases.served_versions import ServedVersions, VersionHandle
from lookalike.v1 import index_pb2

ShardHandle = VersionHandle[ShardVersion]
ShardVersions = ServedVersions[ShardVersion]


def shard_versions(clock: Callable[[], float], lease_s: float) -> ShardVersions:
    return ServedVersions(clock, lease_s, "shard")


def handle_of(shard: ShardVersion, release: Callable[[], None] = lambda: None) -> ShardHandle:
    return VersionHandle(shard.manifest.version, shard, release)


def describe(
    served: ShardVersions,
    pinned: str,
    known_sequence: int = 0,
    awaited: Callable[[ShardVersion], index_pb2.AwaitedChanges | None] | None = None,
) -> index_pb2.DescribeResponse:
    """Describe the versions, the current one first; pin the one that the gateway names, and the target.

    With the updates after `known_sequence` of that one, or of the current one where the gateway names none.
    awaited: the version whose changes a version lacks, if any.

    Raises Unavailable while no version is loaded.
    """
    handles = served.pin(pinned)
    changes_of = pinned or handles[0].name
    states = [each.loaded.state(known_sequence if each.name == changes_of else None) for each in handles]
    if awaited is not None:
        for handle, state in zip(handles, states, strict=True):
            if (lacking := awaited(handle.loaded)) is not None:
                state.awaited.CopyFrom(lacking)
    response = index_pb2.DescribeResponse(versions=states, refusal=served.refusal)
    if (canary := served.canary) is not None and any(each.name == canary.version for each in handles):
        response.canary.version, response.canary.share = canary.version, canary.share
    return response


class ShardRolloutMetrics:
    """The metrics of the rollout of one shard."""

    def __init__(self, shard: int) -> None:
        self._shard = shard

    def loaded(self, handle: ShardHandle, seconds: float) -> None:
        metrics.LOAD_SECONDS.observe(seconds)

    def served(self, handle: ShardHandle, versions: int) -> None:
        metrics.set_loaded(versions, handle.loaded)

    def dropped(self, versions: int) -> None:
        metrics.VERSIONS.labels(self._shard).set(versions)

    def failed(self) -> None:
        metrics.ROLLOUT_FAILURES.inc()
