"""What codes take, by formula: memory and work, also of as many vectors as nobody has trained yet. Pure."""

from __future__ import annotations

from math import log2

from index.kinds.recipe import Graph, Halves, Lists

_ID = 8  # faiss keeps the id of each vector in its list as 8 bytes.
_BLOCK = 32  # Vectors whose codes fast scan keeps together; the last block of a list is on average half empty.
_LINK = 4
# How much longer a byte of code takes to scan than a byte of a full vector takes to compare (1024-d, one core).
_SLOWNESS = {"Flat": 1, "SQ8": 2, "SQ4": 6, "PQ": 2.3, "PQ8": 15, "RaBitQ": 10, "RaBitQfs": 10}
_CENTROID = 0.45  # A centroid in bfloat16, of a full vector in float32.


def ram_bytes(recipe: Lists | Graph | Halves, documents: int, dim: int) -> float:
    """Of codes, ids, links, centroids and matrices. Of trained codes `Codes.ram_bytes` tells it exactly."""
    if isinstance(recipe, Halves):
        return documents * 2 * dim
    if isinstance(recipe, Graph):
        # Twice as many links at the bottom, where all nodes are, as above, where one of `links` is, and so on.
        links = recipe.links * _LINK * (2 + 1 / (recipe.links - 1))
        learnt = 8 * dim if recipe.bytes else 0
        return documents * (links + _LINK + _ID + (dim if recipe.bytes else 4 * dim)) + learnt
    held = recipe.dim or dim
    code, learnt = _code(recipe, held)
    padded = documents + (recipe.lists * (_BLOCK - 1) / 2 if recipe.payload in ("PQ", "RaBitQfs") else 0)
    return padded * code + documents * _ID + recipe.lists * 2 * held + 4 * dim * recipe.dim + learnt


def cost(recipe: Lists | Graph | Halves, documents: int, dim: int, search_parameter: int) -> float:
    """Of finding candidates: about as much time as comparing a query with so many full vectors."""
    if isinstance(recipe, Halves):
        return documents / 2  # Half the bytes of each, in a batch of 16: 65 ns, where a full vector takes 160.
    if isinstance(recipe, Graph):
        # Most of the neighbours of the nodes kept in mind are compared, and paths grow with the logarithm.
        return recipe.links * search_parameter * log2(documents) / 16
    held = recipe.dim or dim
    code, _ = _code(recipe, held)
    centroids = recipe.lists * _CENTROID * held / dim
    return centroids + documents * search_parameter / recipe.lists * code / (4 * dim) * _SLOWNESS[recipe.payload]


def _code(recipe: Lists, held: int) -> tuple[int, int]:
    """Bytes for each vector, and once for all."""
    match recipe.payload:
        case "Flat":
            return 4 * held, 0
        case "SQ8":
            return held, 8 * held
        case "SQ4":
            return (held + 1) // 2, 8 * held
        case "RaBitQ" | "RaBitQfs":  # Beside the bits: a length, and a product with the centroid.
            return (held + 7) // 8 + 8, 4 * held
        case "PQ8":
            return recipe.parts, 1024 * held
        case _:
            return (recipe.parts + 1) // 2, 64 * held
