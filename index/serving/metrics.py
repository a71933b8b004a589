"""The metrics of a process that serves shards; gauges are by shard. Declarations, and functions that set gauges."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from index.live.live_shard import LiveShard
from index.search.cost import CostClass
from index.serving.shard_version import ShardVersion
from lookalike.runtime.telemetry import SECONDS_BUCKETS
from lookalike.spaces import space_name
from lookalike.v1.index_pb2 import UpdateResult

# Searches.
BATCH_QUERIES = Histogram(
    "lookalike_shard_batch_queries", "Queries in one Search call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SECONDS = Histogram(
    "lookalike_shard_batch_seconds", "Time to search one batch, without waiting for a thread.", buckets=SECONDS_BUCKETS
)
QUERIES = Counter("lookalike_shard_queries", "Queries answered.", ["outcome"])  # ok | error

# Searches that are more work than an ordinary one: deep | exact.
_COSTLY = [each.value for each in CostClass if each is not CostClass.ORDINARY]
COSTLY = Gauge("lookalike_shard_costly_searches", "Costly searches in progress, by class.", ["class"])
COSTLY_REFUSED = Counter(
    "lookalike_shard_costly_refused",
    "Costly searches refused at once: too many are in progress, or it would be late.",
    ["class"],
)
COSTLY_SECONDS = Histogram(
    "lookalike_shard_costly_seconds",
    "Time of a costly search that was answered, with its waits.",
    ["class"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
EXACT_BLOCK_SECONDS = Histogram(
    "lookalike_shard_exact_block_seconds",
    "Time to compare one block of vectors with all exact searches in progress.",
    buckets=SECONDS_BUCKETS,
)
_IN_PROGRESS = {name: COSTLY.labels(name) for name in _COSTLY}
_REFUSED = {name: COSTLY_REFUSED.labels(name) for name in _COSTLY}
_ANSWERED = {name: COSTLY_SECONDS.labels(name) for name in _COSTLY}

# Versions.
VERSIONS = Gauge("lookalike_shard_versions", "Loaded versions: two while one replaces the other.", ["shard"])
VECTORS = Gauge(
    "lookalike_shard_vectors", "Vectors in the shard, of the version loaded or updated last.", ["shard", "space"]
)
LOAD_SECONDS = Histogram(
    "lookalike_shard_load_seconds",
    "Time to fetch, verify, map and warm up a version.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
ROLLOUT_FAILURES = Counter(
    "lookalike_shard_rollout_failures", "Failures to read CURRENT, or to load or drop a version."
)
CHANGES_LOST = Counter(
    "lookalike_shard_changes_lost", "Changes that a version could not take, whole or in part, from another version."
)

# Updates.
UPDATES = Counter("lookalike_shard_updates", "Updates checked.", ["outcome"])  # applied | stale | invalid | full
WRITE_UPDATES = Histogram("lookalike_shard_write_updates", "Updates in one write.", buckets=(1, 4, 16, 64, 256))
WRITE_SECONDS = Histogram(
    "lookalike_shard_write_seconds", "Time to check, log and publish the updates of one write.", buckets=SECONDS_BUCKETS
)
COMPACTION_SECONDS = Histogram(
    "lookalike_shard_compaction_seconds", "Time of a compaction.", buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
)
COMPACTION_FAILURES = Counter(
    "lookalike_shard_compaction_failures", "Compactions that failed, most likely because the disk is full."
)
SEQUENCE = Gauge("lookalike_shard_sequence", "Updates applied since the version was built.", ["shard"])
DELTA_ROWS = Gauge(
    "lookalike_shard_delta_rows", "Products in memory and in the log until the next compaction.", ["shard"]
)
SEGMENT_ROWS = Gauge("lookalike_shard_segment_rows", "Products in the compacted segment.", ["shard"])
SUPERSEDED_ROWS = Gauge(
    "lookalike_shard_superseded_rows", "Products of the version as built, removed or replaced since.", ["shard"]
)
TOMBSTONES = Gauge("lookalike_shard_tombstones", "Removals that are remembered.", ["shard"])
LOG_BYTES = Gauge("lookalike_shard_log_bytes", "Size of the write-ahead log.", ["shard"])

# Peers: the other replicas of the shard.
CATCHING_UP = Gauge(
    "lookalike_shard_catching_up", "1 while this replica may lack changes that a peer has; else 0.", ["shard"]
)
PEER_CHANGES = Counter("lookalike_shard_peer_changes", "Changes that this replica lacked, taken from a peer.")
PEER_LAG_SECONDS = Gauge(
    "lookalike_shard_peer_lag_seconds", "Time since this replica last had all changes of a peer.", ["peer"]
)


def set_loaded(versions: int, loaded: ShardVersion) -> None:
    """Set the gauges after a version was loaded: how many there are now, and the vectors of this one."""
    VERSIONS.labels(loaded.shard).set(versions)
    for number, space in loaded.base.spaces.items():
        VECTORS.labels(loaded.shard, space_name(number)).set(len(space))


def set_in_progress(cost_class: CostClass, count: int) -> None:
    _IN_PROGRESS[cost_class.value].set(count)


def count_refused(cost_class: CostClass) -> None:
    _REFUSED[cost_class.value].inc()


def observe_costly(cost_class: CostClass, seconds: float) -> None:
    _ANSWERED[cost_class.value].observe(seconds)


def count_outcomes(outcomes: Sequence[UpdateResult]) -> None:
    for outcome in outcomes:
        UPDATES.labels(UpdateResult.Outcome.Name(outcome.outcome).lower()).inc()


def set_live(shard: int, live: LiveShard) -> None:
    """Set the gauges of a version that takes updates, after a write or a compaction."""
    state = live.state()
    SEQUENCE.labels(shard).set(live.sequence)
    DELTA_ROWS.labels(shard).set(state.delta_rows)
    SEGMENT_ROWS.labels(shard).set(state.segment_rows)
    SUPERSEDED_ROWS.labels(shard).set(state.superseded_rows)
    TOMBSTONES.labels(shard).set(state.tombstones)
    LOG_BYTES.labels(shard).set(state.log_bytes)
    for number in live.encoders:
        VECTORS.labels(shard, space_name(number)).set(live.view.vector_count(number))
