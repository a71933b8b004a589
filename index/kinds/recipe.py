"""The names of kinds, close to those that faiss's index_factory reads. Pure.

    Flat                      no codes: every vector is compared
    HNSW32  HNSW32,SQ8        a graph, 32 links a node, over full vectors or bytes
    IVF,Flat                  inverted lists of full vectors
    IVF,SQ8  IVF,SQ4          of one byte, half a byte, for each dimension
    IVF,PQ4fs                 of 4-bit product-quantised codes, scanned in registers; the default for a large space
    IVF,PQ64x8                of 64 codes of 8 bits, as a GPU can search them
    IVF,RaBitQ  IVF,RaBitQfs  of one bit for each dimension
    NGT                       a graph with a tree over full vectors
    SQfp16                    every vector in half precision, compared one by one: for a GPU

`IVF1024` states how many lists, `PQ64x4fs` how many codes a vector has; both follow from the vectors where they are not
stated. Lists may hold vectors rotated to fewer dimensions: `OPQ64_256,IVF,PQ64x4fs` to 256, for 64 codes;
`PCAR128,IVF,RaBitQ` to 128.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from lookalike.errors import BadSettings

AUTO = "auto"
EXACT = "Flat"
DEFAULT = "IVF,PQ4fs"  # 2-3 times the queries per core of a graph at the same recall, built 5 times as fast.
ALLOWED = (
    "auto, Flat, SQfp16, HNSW<links>[,SQ8], NGT, or [OPQ<codes>_<dim>,|PCAR<dim>,]IVF[<lists>],"
    "<Flat|SQ8|SQ4|PQ4fs|PQ<codes>x4fs|PQ<codes>x8|RaBitQ|RaBitQfs>"
)
LEAST = 256  # Fewer vectors are compared one by one, whatever the recipe: there is little to learn from them.
_POINTS_PER_LIST = 39  # faiss warns below.

_GRAPH = re.compile(r"HNSW(?P<links>\d{1,3})(?P<bytes>,SQ8)?")
_LISTS = re.compile(
    r"(?:OPQ(?P<blocks>\d{1,4})_(?P<opq>\d{1,5}),|PCAR(?P<pca>\d{1,5}),)?"
    r"IVF(?P<lists>\d{1,7})?,"
    r"(?P<payload>Flat|SQ8|SQ4|PQ4fs|RaBitQ|RaBitQfs|PQ(?P<parts>\d{1,4})x(?:4fs|8))"
)


@dataclass(frozen=True)
class Graph:
    """HNSW."""

    links: int
    bytes: bool = False  # Of vectors of one byte for each dimension.

    def __str__(self) -> str:
        return f"HNSW{self.links}" + (",SQ8" if self.bytes else "")


@dataclass(frozen=True)
class Lists:
    """IVF. What is 0 follows from the vectors."""

    payload: str  # Flat, SQ8, SQ4, PQ, PQ8, RaBitQ, RaBitQfs
    lists: int = 0
    parts: int = 0  # Codes per vector, where the payload is PQ or PQ8.
    dim: int = 0  # Of what the lists hold; 0: of the vectors as they are.

    @property
    def bits(self) -> int:
        """Of a code; 0: the payload is not product-quantised."""
        return {"PQ": 4, "PQ8": 8}.get(self.payload, 0)

    def __str__(self) -> str:
        rotation = f"OPQ{self.parts}_{self.dim}," if self.bits else f"PCAR{self.dim},"
        payload = {4: f"PQ{self.parts}x4fs", 8: f"PQ{self.parts}x8"}.get(self.bits, self.payload)
        return f"{rotation if self.dim else ''}IVF{self.lists},{payload}"


@dataclass(frozen=True)
class Ngt:
    def __str__(self) -> str:
        return "NGT"


@dataclass(frozen=True)
class Halves:
    def __str__(self) -> str:
        return "SQfp16"


Recipe = Graph | Lists | Ngt | Halves


def parsed(name: str) -> Recipe | None:
    """What a name stands for; None: `Flat`. Raises BadSettings with what is allowed."""
    if name == EXACT:
        return None
    if name in ("NGT", "SQfp16"):
        return Ngt() if name == "NGT" else Halves()
    if match := _GRAPH.fullmatch(name):
        return Graph(int(match["links"]), bool(match["bytes"]))
    if match := _LISTS.fullmatch(name):
        payload = match["payload"]
        if payload.startswith("PQ"):
            payload = "PQ8" if payload.endswith("x8") else "PQ"
        blocks, lists, parts = _int(match["blocks"]), _int(match["lists"]), _int(match["parts"])
        recipe = Lists(payload, lists, parts, dim=_int(match["opq"]) or _int(match["pca"]))
        if recipe.dim and blocks != parts:
            raise BadSettings(f"recipe {name!r}: OPQ<codes>_<dim> goes with PQ<codes>, PCAR<dim> with all others")
        return recipe
    raise BadSettings(f"no recipe {name!r}; allowed: {ALLOWED}")


def resolved(name: str, documents: int, dim: int, exact_floats: int) -> Recipe | None:
    """With all that follows from the vectors; None: exact search. Raises BadSettings for what cannot be made of them.

    exact_floats: of `auto`: a space of at most so many is searched exactly.
    """
    if name == AUTO:
        name = EXACT if documents * dim <= exact_floats else DEFAULT
    recipe = parsed(name)
    if recipe is None or documents < LEAST:
        return None
    if isinstance(recipe, Graph) and not 2 <= recipe.links <= 256:
        raise BadSettings(f"recipe {name!r}: a node has 2..256 links")
    if not isinstance(recipe, Lists):
        return recipe
    if recipe.dim > dim:
        raise BadSettings(f"recipe {name!r}: vectors of {dim} dimensions cannot be rotated to {recipe.dim}")
    if recipe.lists > documents // _POINTS_PER_LIST:
        most = documents // _POINTS_PER_LIST
        raise BadSettings(
            f"recipe {name!r}: {recipe.lists} lists for {documents} vectors, at most {most} can be learnt"
        )
    held = recipe.dim or dim
    parts = recipe.parts or (parts_of(held) if recipe.payload == "PQ" else 0)
    if parts and held % parts:
        raise BadSettings(f"recipe {name!r}: {parts} codes do not divide {held} dimensions")
    return replace(recipe, lists=recipe.lists or lists_of(documents), parts=parts)


def parts_of(dim: int) -> int:
    """Codes per vector: one for as many dimensions as divide `dim`, at most 4."""
    return dim // next(size for size in (4, 3, 2, 1) if dim % size == 0)


def lists_of(documents: int) -> int:
    """How many inverted lists: the power of two at or below 4·√n, each with at least 39 vectors to learn from."""
    at_most = max(1, min(4 * documents**0.5, documents / _POINTS_PER_LIST))
    return 1 << int(np.log2(at_most))


def _int(text: str | None) -> int:
    return int(text) if text else 0
