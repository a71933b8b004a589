"""The gateway: one request in, scattered over shards and encoders, one truthful answer out."""
