"""The durable stream of product events, for those who publish and consume them. Network I/O to Redis."""
