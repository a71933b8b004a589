"""Memory and search cost of an index by formula, also for more vectors than anybody has indexed yet. Pure."""

from __future__ import annotations

from math import log2

from index.backends.recipe import HalfPrecisionRecipe, HnswRecipe, IvfRecipe

_ID_BYTES = 8  # faiss keeps the id of each vector in its list as 8 bytes.
_BLOCK_VECTORS = 32  # Fast scan stores codes in blocks of so many; the last block of a list is on average half empty.
_LINK_BYTES = 4
# How much longer a byte of code takes to scan than a byte of a full vector takes to compare (1024-d, one core).
_SLOWNESS = {"Flat": 1, "SQ8": 2, "SQ4": 6, "PQ": 2.3, "PQ8": 15, "RaBitQ": 10, "RaBitQfs": 10}
_CENTROID_COST = 0.45  # Of comparing with a centroid in bfloat16, relative to a full vector in float32.


def ram_bytes(recipe: IvfRecipe | HnswRecipe | HalfPrecisionRecipe, documents: int, dim: int) -> float:
    """Bytes of codes, ids, links, centroids and matrices. For a trained index `VectorIndex.ram_bytes` is exact."""
    if isinstance(recipe, HalfPrecisionRecipe):
        return documents * 2 * dim
    if isinstance(recipe, HnswRecipe):
        # The bottom layer has all nodes with 2 × links each; each layer above has one node in `links`, with `links`.
        links = recipe.links * _LINK_BYTES * (2 + 1 / (recipe.links - 1))
        trained_bytes = 8 * dim if recipe.quantized else 0
        return documents * (links + _LINK_BYTES + _ID_BYTES + (dim if recipe.quantized else 4 * dim)) + trained_bytes
    stored_dim = recipe.rotated_dim or dim
    code, trained_bytes = _code_bytes(recipe, stored_dim)
    fast_scan = recipe.payload in ("PQ", "RaBitQfs")
    padded = documents + (recipe.nlist * (_BLOCK_VECTORS - 1) / 2 if fast_scan else 0)
    centroids, rotation = recipe.nlist * 2 * stored_dim, 4 * dim * recipe.rotated_dim
    return padded * code + documents * _ID_BYTES + centroids + rotation + trained_bytes


def search_cost(
    recipe: IvfRecipe | HnswRecipe | HalfPrecisionRecipe, documents: int, dim: int, search_parameter: int
) -> float:
    """Estimated time of finding candidates, in units of comparing a query with one full vector."""
    if isinstance(recipe, HalfPrecisionRecipe):
        return documents / 2  # Half the bytes of each, in a batch of 16: 65 ns, where a full vector takes 160.
    if isinstance(recipe, HnswRecipe):
        # Most neighbours of the nodes in the candidate list (efSearch) are compared; paths grow with the logarithm.
        return recipe.links * search_parameter * log2(documents) / 16
    stored_dim = recipe.rotated_dim or dim
    code, _ = _code_bytes(recipe, stored_dim)
    centroids = recipe.nlist * _CENTROID_COST * stored_dim / dim
    return centroids + documents * search_parameter / recipe.nlist * code / (4 * dim) * _SLOWNESS[recipe.payload]


def _code_bytes(recipe: IvfRecipe, stored_dim: int) -> tuple[int, int]:
    """Bytes per vector, and bytes once per index."""
    match recipe.payload:
        case "Flat":
            return 4 * stored_dim, 0
        case "SQ8":
            return stored_dim, 8 * stored_dim
        case "SQ4":
            return (stored_dim + 1) // 2, 8 * stored_dim
        case "RaBitQ" | "RaBitQfs":  # Beside the bits: a length, and a product with the centroid.
            return (stored_dim + 7) // 8 + 8, 4 * stored_dim
        case "PQ8":
            return recipe.pq_codes, 1024 * stored_dim
        case _:
            return (recipe.pq_codes + 1) // 2, 64 * stored_dim
