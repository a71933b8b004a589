"""Formulas for the memory and the search cost of an index of any size, built or not. Pure."""

from __future__ import annotations

from math import log2

from index.backends.packed_integers import bits_for
from index.backends.recipe import HalfPrecisionRecipe, HnswRecipe, IvfRecipe, SymqgRecipe

MeasurableRecipe = IvfRecipe | HnswRecipe | SymqgRecipe | HalfPrecisionRecipe

_ID_BYTES = 8  # Per vector in a graph, or in a list that faiss scans by registers.
_BLOCK_VECTORS = (
    32  # Fast scan stores codes in blocks of 32 vectors; the last block of a list is on average half empty.
)
_TABLE_BYTES = 40  # Per compact list: where it begins, and how many vectors it holds, for faiss and for us.
_LINK_BYTES = 4
# Time to scan a byte of code, relative to comparing a byte of a full vector (1024-d, one core).
_SCAN_SLOWDOWN = {"Flat": 1, "SQ8": 2, "SQ4": 6, "PQ": 2.3, "PQ8": 15, "RaBitQ": 10, "RaBitQfs": 10}
_CENTROID_COST = 0.45  # Of comparing with a bfloat16 centroid, relative to a float32 vector.


def ram_bytes(recipe: MeasurableRecipe, documents: int, dim: int) -> float:
    """Estimated bytes of codes, ids, links, centroids and matrices; `VectorIndex.ram_bytes` measures a built index."""
    if isinstance(recipe, HalfPrecisionRecipe):
        return documents * 2 * dim
    stored_dim, rotation = recipe.rotated_dim or dim, 4 * dim * recipe.rotated_dim
    if isinstance(recipe, HnswRecipe):
        # The bottom layer has all nodes with 2 × links each; each layer above has one node in `links`, with `links`.
        links = recipe.links * _LINK_BYTES * (2 + 1 / (recipe.links - 1))
        code, trained_bytes = (stored_dim, 8 * stored_dim) if recipe.quantized else (4 * stored_dim, 0)
        return documents * (links + _LINK_BYTES + _ID_BYTES + code) + trained_bytes + rotation
    if isinstance(recipe, SymqgRecipe):
        padded_dim = -(-stored_dim // 32) * 32
        # A byte per dimension and two factors; for each link an id, a bit per dimension of the neighbour, two factors.
        node = padded_dim + 8 + recipe.degree * (_LINK_BYTES + padded_dim // 8 + 8)
        return documents * node + rotation
    code, trained_bytes = _code_bytes(recipe, stored_dim)
    if recipe.fast_scan:
        lists = (documents + recipe.nlist * (_BLOCK_VECTORS - 1) / 2) * code + documents * _ID_BYTES
    else:
        lists = documents * (code + bits_for(documents) / 8) + recipe.nlist * _TABLE_BYTES
    return lists + recipe.nlist * 2 * stored_dim + rotation + trained_bytes


def search_cost(recipe: MeasurableRecipe, documents: int, dim: int, search_parameter: int) -> float:
    """Estimated time of finding candidates, in units of comparing a query with one full vector."""
    if isinstance(recipe, HalfPrecisionRecipe):
        return documents / 2  # Half the bytes per vector: 65 ns each in a batch of 16, a float32 vector takes 160 ns.
    if isinstance(recipe, HnswRecipe):
        # Most neighbours of the nodes in the candidate list (efSearch) are compared; paths grow with the logarithm.
        # A quarter of the time of a comparison does not depend on the dimension.
        comparison = 0.25 + 0.75 * (recipe.rotated_dim or dim) / dim
        return comparison * recipe.links * search_parameter * log2(documents) / 16
    stored_dim = recipe.rotated_dim or dim
    if isinstance(recipe, SymqgRecipe):
        # Of 100,000 vectors of 1024 dimensions, where a unit is 0.16 µs: 20 µs and 0.63 µs for each of the candidate
        # list (ef); rotated to 256 dimensions 8 µs and 0.37 µs.
        fixed, per_dim = 25 + 1.8 * search_parameter, 100 + 2.1 * search_parameter
        return (fixed * 1024 / dim + per_dim * stored_dim / dim) * log2(documents) / 17
    code, _ = _code_bytes(recipe, stored_dim)
    centroids = recipe.nlist * _CENTROID_COST * stored_dim / dim
    return centroids + documents * search_parameter / recipe.nlist * code / (4 * dim) * _SCAN_SLOWDOWN[recipe.payload]


def _code_bytes(recipe: IvfRecipe, stored_dim: int) -> tuple[int, int]:
    """Bytes of code per vector, and bytes of trained parameters per index."""
    match recipe.payload:
        case "Flat":
            return 4 * stored_dim, 0
        case "SQ8":
            return stored_dim, 8 * stored_dim
        case "SQ4":
            return (stored_dim + 1) // 2, 8 * stored_dim
        case "RaBitQ" | "RaBitQfs":  # Plus 8 bytes: a length, and a product with the centroid.
            return (stored_dim + 7) // 8 + 8, 4 * stored_dim
        case "PQ8":
            return recipe.pq_codes, 1024 * stored_dim
        case _:
            return (recipe.pq_codes + 1) // 2, 64 * stored_dim
