"""A node: a gateway and all shards of an index in one process, for what fits on one machine."""
