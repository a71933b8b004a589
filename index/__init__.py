"""One shard of the index: load, search, filter, rescore; versions on disk; building them."""
