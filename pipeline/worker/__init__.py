"""The worker: product events from the stream to photos, vectors and changes of the shards."""
