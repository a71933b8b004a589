"""What changes in a shard while it serves: updates, their log, the rows they add, and compaction."""
