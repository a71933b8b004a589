"""Recipes: faiss-style factory strings that name how vectors are indexed, close to those of `index_factory`. Pure.

    Flat                      exact search: every vector is compared
    HNSW32  HNSW32,SQ8        a graph with 32 links per node, over full vectors or bytes
    SymQG32                   SymphonyQG: a graph with 32 links per node, each with a code of the neighbour it leads to
    IVF,Flat                  inverted lists of full vectors
    IVF,SQ8  IVF,SQ4          inverted lists with one byte, or half a byte, per dimension
    IVF,PQ4fs                 4-bit product quantisation, scanned in registers
    IVF,PQ64x8                product quantisation with 64 codes of 8 bits, which a GPU can search
    IVF,RaBitQ  IVF,RaBitQfs  one bit per dimension
    NGT                       a graph with a tree over full vectors
    SQfp16                    brute force over vectors in half precision: for a GPU

`IVF1024` states the number of lists, `PQ64x4fs` the codes per vector; both are derived from the vectors unless stated.
A prefix rotates vectors to fewer dimensions: `OPQ64_256,IVF,PQ64x4fs` to 256, for 64 codes; `PCAR128,IVF,RaBitQ`,
`PCAR256,HNSW24,SQ8` and `PCAR256,SymQG32` by a principal component analysis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from lookalike.errors import BadSettings

AUTO = "auto"
EXACT = "Flat"
DEFAULT = "IVF,PQ4fs"  # Of `auto` for fewer vectors than can be measured.
ALLOWED = (
    "auto, Flat, SQfp16, NGT, [PCAR<dim>,]HNSW<links>[,SQ8], [PCAR<dim>,]SymQG<degree>, or "
    "[OPQ<codes>_<dim>,|PCAR<dim>,]IVF[<lists>],"
    "<Flat|SQ8|SQ4|PQ4fs|PQ<codes>x4fs|PQ<codes>x8|RaBitQ|RaBitQfs>"
)
MIN_INDEXED_VECTORS = 256  # Fewer are searched exactly, whatever the recipe: there is too little to train on.
_MIN_VECTORS_PER_LIST = 39  # faiss warns below.

SYMQG_MIN_DIM = 64  # The library rotates vectors by a fast Hadamard transform of at least 64 dimensions.
_SYMQG_DEGREES = (32, 64, 96, 128)  # The library compares blocks of 32 neighbours, and needs more vectors than links.

_HNSW = re.compile(r"(?:PCAR(?P<pca_dim>\d{1,5}),)?HNSW(?P<links>\d{1,3})(?P<quantized>,SQ8)?")
_SYMQG = re.compile(r"(?:PCAR(?P<pca_dim>\d{1,5}),)?SymQG(?P<degree>\d{1,3})")
_IVF = re.compile(
    r"(?:OPQ(?P<opq_codes>\d{1,4})_(?P<opq_dim>\d{1,5}),|PCAR(?P<pca_dim>\d{1,5}),)?"
    r"IVF(?P<nlist>\d{1,7})?,"
    r"(?P<payload>Flat|SQ8|SQ4|PQ4fs|RaBitQ|RaBitQfs|PQ(?P<pq_codes>\d{1,4})x(?:4fs|8))"
)


@dataclass(frozen=True)
class HnswRecipe:
    """An HNSW graph."""

    links: int
    quantized: bool = False  # To one byte per dimension (SQ8).
    rotated_dim: int = 0  # Of the vectors in the graph; 0: no rotation.

    def __str__(self) -> str:
        return f"{_pca_prefix(self.rotated_dim)}HNSW{self.links}" + (",SQ8" if self.quantized else "")


@dataclass(frozen=True)
class SymqgRecipe:
    """A SymphonyQG graph over bytes."""

    degree: int  # Links per node.
    rotated_dim: int = 0  # Of the vectors in the graph; 0: no rotation.

    def __str__(self) -> str:
        return f"{_pca_prefix(self.rotated_dim)}SymQG{self.degree}"


@dataclass(frozen=True)
class IvfRecipe:
    """Inverted lists (IVF). `resolve_recipe` fills in `nlist` and `pq_codes` where they are 0."""

    payload: str  # Flat, SQ8, SQ4, PQ, PQ8, RaBitQ, RaBitQfs
    nlist: int = 0
    pq_codes: int = 0  # Per vector, where the payload is PQ or PQ8.
    rotated_dim: int = 0  # Of the vectors in the lists; 0: no rotation.

    @property
    def pq_bits(self) -> int:
        """Bits of a code; 0: the payload is not product-quantised."""
        return {"PQ": 4, "PQ8": 8}.get(self.payload, 0)

    @property
    def fast_scan(self) -> bool:
        """Whether faiss scans the codes by registers, in blocks of 32 vectors."""
        return self.payload in ("PQ", "RaBitQfs")

    def __str__(self) -> str:
        rotation = f"OPQ{self.pq_codes}_{self.rotated_dim}," if self.pq_bits else _pca_prefix(self.rotated_dim)
        payload = {4: f"PQ{self.pq_codes}x4fs", 8: f"PQ{self.pq_codes}x8"}.get(self.pq_bits, self.payload)
        return f"{rotation if self.rotated_dim else ''}IVF{self.nlist},{payload}"


@dataclass(frozen=True)
class NgtRecipe:
    """NGT's graph with a tree."""

    def __str__(self) -> str:
        return "NGT"


@dataclass(frozen=True)
class HalfPrecisionRecipe:
    """Brute force over float16."""

    def __str__(self) -> str:
        return "SQfp16"


Recipe = HnswRecipe | SymqgRecipe | IvfRecipe | NgtRecipe | HalfPrecisionRecipe


def parse_recipe(name: str) -> Recipe | None:
    """Parse a factory string; None: `Flat`, exact search. Raises BadSettings with what is allowed."""
    if name == EXACT:
        return None
    if name in ("NGT", "SQfp16"):
        return NgtRecipe() if name == "NGT" else HalfPrecisionRecipe()
    if match := _HNSW.fullmatch(name):
        return HnswRecipe(int(match["links"]), bool(match["quantized"]), _int(match["pca_dim"]))
    if match := _SYMQG.fullmatch(name):
        return SymqgRecipe(int(match["degree"]), _int(match["pca_dim"]))
    if match := _IVF.fullmatch(name):
        payload = match["payload"]
        if payload.startswith("PQ"):
            payload = "PQ8" if payload.endswith("x8") else "PQ"
        opq_codes, nlist, pq_codes = _int(match["opq_codes"]), _int(match["nlist"]), _int(match["pq_codes"])
        recipe = IvfRecipe(payload, nlist, pq_codes, rotated_dim=_int(match["opq_dim"]) or _int(match["pca_dim"]))
        if recipe.rotated_dim and opq_codes != pq_codes:
            raise BadSettings(f"recipe {name!r}: OPQ<codes>_<dim> goes with PQ<codes>, PCAR<dim> with all others")
        return recipe
    raise BadSettings(f"no recipe {name!r}; allowed: {ALLOWED}")


def resolve_recipe(name: str, documents: int, dim: int, exact_floats: int, *, measured: str = DEFAULT) -> Recipe | None:
    """Parse a factory string and derive the parameters that it leaves open; None: exact search.

    exact_floats: with `auto`, a space of at most this many floats is searched exactly,
    measured:     and a larger one as this recipe, which a measurement chose.
    Raises BadSettings for a recipe that does not suit the vectors.
    """
    if name == AUTO:
        name = EXACT if documents * dim <= exact_floats else measured
    recipe = parse_recipe(name)
    if recipe is None or documents < MIN_INDEXED_VECTORS:
        return None
    if isinstance(recipe, HnswRecipe) and not 2 <= recipe.links <= 256:
        raise BadSettings(f"recipe {name!r}: a node has 2..256 links")
    if isinstance(recipe, NgtRecipe | HalfPrecisionRecipe):
        return recipe
    if recipe.rotated_dim > dim:
        raise BadSettings(f"recipe {name!r}: vectors of {dim} dimensions cannot be rotated to {recipe.rotated_dim}")
    if isinstance(recipe, SymqgRecipe):
        _check_symqg(name, recipe, recipe.rotated_dim or dim)
    if not isinstance(recipe, IvfRecipe):
        return recipe
    if recipe.nlist > documents // _MIN_VECTORS_PER_LIST:
        max_nlist = documents // _MIN_VECTORS_PER_LIST
        raise BadSettings(
            f"recipe {name!r}: {recipe.nlist} lists for {documents} vectors, at most {max_nlist} can be trained"
        )
    stored_dim = recipe.rotated_dim or dim
    pq_codes = recipe.pq_codes or (default_pq_codes(stored_dim) if recipe.payload == "PQ" else 0)
    if pq_codes and stored_dim % pq_codes:
        raise BadSettings(f"recipe {name!r}: {pq_codes} codes do not divide {stored_dim} dimensions")
    return replace(recipe, nlist=recipe.nlist or default_nlist(documents), pq_codes=pq_codes)


def _check_symqg(name: str, recipe: SymqgRecipe, stored_dim: int) -> None:
    if recipe.degree not in _SYMQG_DEGREES:
        raise BadSettings(f"recipe {name!r}: a node has {', '.join(map(str, _SYMQG_DEGREES))} links")
    if stored_dim < SYMQG_MIN_DIM:
        raise BadSettings(f"recipe {name!r}: SymphonyQG needs {SYMQG_MIN_DIM} dimensions at least, not {stored_dim}")


def default_pq_codes(dim: int) -> int:
    """Codes per vector: one per group of dimensions, the largest group up to 4 that divides `dim`."""
    return dim // next(size for size in (4, 3, 2, 1) if dim % size == 0)


def default_nlist(documents: int) -> int:
    """How many inverted lists: the power of two at or below 4·√n, each with at least 39 vectors to train on."""
    at_most = max(1, min(4 * documents**0.5, documents / _MIN_VECTORS_PER_LIST))
    return 1 << int(np.log2(at_most))


def _pca_prefix(rotated_dim: int) -> str:
    return f"PCAR{rotated_dim}," if rotated_dim else ""


def _int(text: str | None) -> int:
    return int(text) if text else 0
