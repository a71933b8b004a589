"""One shard as a process: what is loaded, and the service that answers from it."""
