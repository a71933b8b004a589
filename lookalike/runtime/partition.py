"""Which shard owns a product. Pure. Must never change: every index on disk is partitioned by it."""

from hashlib import blake2b


def product_hash(product_id: bytes) -> int:
    """BLAKE2b-64 of the id (UTF-8), little-endian."""
    return int.from_bytes(blake2b(product_id, digest_size=8).digest(), "little")


def shard_of(product_id: str, shards: int) -> int:
    """The shard of a product, 0..shards-1: the hash of its id, modulo the shard count."""
    return product_hash(product_id.encode()) % shards
