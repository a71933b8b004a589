"""The recipe of a compacted segment: what searches few vectors fastest, within the memory that the base's takes. Pure.

A second graph like the base's costs a query far more than its share: of 15,000 vectors beside 85,000, `HNSW32,SQ8`
takes 289 µs of CPU per query, in batches of 16, and the base 735; `IVF,PQ4fs` takes 133 and `PCAR256,SymQG32` 52.
"""

from __future__ import annotations

from dataclasses import replace

from index.backends import cost_model, factory
from index.backends.recipe import (
    DEFAULT,
    SYMQG_MIN_DIM,
    HnswRecipe,
    IvfRecipe,
    NgtRecipe,
    Recipe,
    SymqgRecipe,
    default_nlist,
    resolve_recipe,
)

_ROTATED_DIM, _DEGREE = 256, 32
_MAX_GROWTH = 1.5  # Of the memory per vector, over that of the base.


def segment_recipe(base: Recipe, latest: Recipe, documents: int, dim: int) -> Recipe:
    """The recipe for so many vectors.

    base:   of the version as built; of inverted lists a segment has some of the same kind.
    latest: of the last segment, or the base's.
    """
    if isinstance(base, HnswRecipe | NgtRecipe):
        symqg = SymqgRecipe(_DEGREE, rotated_dim=_ROTATED_DIM if dim > _ROTATED_DIM else 0)
        if dim >= SYMQG_MIN_DIM and factory.is_installed(symqg) and _fits(symqg, base, documents, dim):
            return symqg
        base = resolve_recipe(DEFAULT, documents, dim, 0) or base
        latest = latest if isinstance(latest, IvfRecipe) else base
    if isinstance(base, IvfRecipe) and isinstance(latest, IvfRecipe) and not base.rotated_dim:
        return _with_suitable_lists(latest, documents)  # Training a rotation takes too long.
    return base


def _fits(recipe: SymqgRecipe, base: HnswRecipe | NgtRecipe, documents: int, dim: int) -> bool:
    if isinstance(base, NgtRecipe):
        return True  # Its graph holds full vectors.
    own, of_base = (cost_model.ram_bytes(each, documents, dim) for each in (recipe, base))
    return own <= _MAX_GROWTH * of_base


def _with_suitable_lists(recipe: IvfRecipe, documents: int) -> IvfRecipe:
    """The same recipe, or with another number of lists where it has far too many or too few.

    Finding and visiting 1,024 lists of 15,000 vectors costs a query as much as those of 100,000.
    """
    lists = default_nlist(documents)
    return recipe if recipe.nlist <= 2 * lists <= 4 * recipe.nlist else replace(recipe, nlist=lists)
