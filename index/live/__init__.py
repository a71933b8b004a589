"""Live updates of a shard: write-ahead log, delta, compaction, and migration of changes to the next version."""
