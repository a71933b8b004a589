"""Search in one shard: filters, search plans, exact scores, late fusion. No network."""
