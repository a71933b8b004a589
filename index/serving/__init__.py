"""One shard as a process: loaded versions, their rollout, updates, and the gRPC service."""
