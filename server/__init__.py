"""The gateway: it answers each request from encoders and index shards, and says how complete the answer is."""
