"""`lookalike index build`: an index over vectors you already have. Reads files, names the row at fault."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.building import build
from index.building.workshop import publish, workshop
from index.kinds.recipe import ALLOWED
from index.storage.attributes import ID_BYTES, checked, refuse_duplicates
from index.storage.location import Location, located
from index.storage.vectors import RESCORES
from lookalike.cli import arguments, npy_files
from lookalike.cli.progress import stage_progress_bar
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.spaces import VECTOR_SPACES, space_number
from lookalike.vectors import F32

EPILOG = """examples:
  lookalike index build --vectors base.npy --space image --shards 2 index
  lookalike index build --vectors base.npy --space image --recipe OPQ64_256,IVF,PQ64x4fs --rescore float16 index
  lookalike index build --vectors base.npy --space image s3://bucket/index
  lookalike index build --vectors base.npy --ids ids.txt --attributes attributes.parquet --space text --shards 4 index

The version built serves at once (INDEX/CURRENT); shards and gateway: `lookalike serve local INDEX`."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    options = _parser().parse_args(argv)
    vectors = vectors_of(options.vectors)
    ids = ids_of(options.ids) if options.ids else [str(row) for row in range(len(vectors))]
    if len(ids) != len(vectors):
        raise BadCatalogue(f"{options.ids}: {len(ids)} ids for {len(vectors)} vectors in {options.vectors}")
    products = pa.table({"id": pa.array(ids, pa.large_string())})
    if options.attributes:
        products = with_attributes(products, options.attributes)
    given = build.SpaceVectors(encoder=options.encoder, vectors=vectors, rows=np.arange(len(vectors)))
    location = located(options.location)
    with workshop(location, options.staging) as directory, stage_progress_bar() as progress:
        name = build.build(
            directory,
            products,
            {space_number(options.space): given},
            shards=options.shards,
            form=build.Form(recipe=options.recipe, rescore=options.rescore, recall=options.recall),
            seed=options.seed,
            threads=options.threads or len(os.sched_getaffinity(0)),
            progress=progress,
        )
        publish(location, directory, name)
    _report(location, name, as_json=options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike index build",
        description="Build a version of an index from vectors you already have, and let it serve.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory of the index, made if missing, or URL (s3://…)")
    parser.add_argument("--staging", type=Path, help="where to build for a URL; a temporary directory unless given")
    parser.add_argument("--vectors", required=True, type=Path, help="NumPy file, float32 (n, dim); memory-mapped")
    parser.add_argument("--ids", type=Path, help="text file, the id of each vector on a line; default: 0, 1, 2, …")
    parser.add_argument(
        "--attributes", type=Path, help="Parquet file with `id` and any of title, category, shop, tags, …"
    )
    parser.add_argument("--space", required=True, choices=VECTOR_SPACES, help="what the vectors say of products")
    parser.add_argument("--shards", type=int, default=1, help="processes that will share the work (default: 1)")
    parser.add_argument(
        "--recipe",
        default=build.AS_USUAL.recipe,
        help=f"how vectors are compressed (default: auto, by size): {ALLOWED}",
    )
    parser.add_argument(
        "--rescore",
        default=build.AS_USUAL.rescore,
        choices=RESCORES,
        help="what full vectors are kept as on disk; float16 takes half of it, and scores are of the rounded vectors",
    )
    parser.add_argument(
        "--recall",
        type=float,
        default=build.AS_USUAL.recall,
        help="of the nearest k, for every k; what cannot reach it is searched exactly (default: 0.95)",
    )
    parser.add_argument("--encoder", default="vectors", help="fingerprint of what made the vectors (default: vectors)")
    parser.add_argument("--seed", type=arguments.seed, default=0, help="of training and measuring (default: 0)")
    parser.add_argument("--threads", type=arguments.threads, default=0, help="cores to use; 0: all (default)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def vectors_of(path: Path) -> F32:
    """Memory-mapped (n, dim) float32. Raises BadArtifact; the values are looked at when they are copied."""
    try:
        vectors = npy_files.read(path, mapped=True)
    except ValueError as error:
        raise BadArtifact(f"{path}: {error}") from error
    if vectors.ndim != 2 or vectors.dtype != np.dtype("<f4") or not vectors.size:
        raise BadArtifact(f"{path}: {vectors.dtype} {vectors.shape}, not an array of float32 (n, dim)")
    return np.asarray(vectors)


def ids_of(path: Path) -> list[str]:
    """One id per line. Raises BadCatalogue naming the line (from 1)."""
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise BadCatalogue(f"{path}: {error}") from error
    ids = []
    for number, line in enumerate(lines, start=1):
        given = line.removesuffix(b"\r")
        if not 1 <= len(given) <= ID_BYTES:
            raise BadCatalogue(f"{path}: line {number}: an id has 1..{ID_BYTES} bytes, not {len(given)}")
        try:
            ids.append(given.decode())
        except UnicodeDecodeError as error:
            raise BadCatalogue(f"{path}: line {number}: not UTF-8: {error.reason}") from None
    refuse_duplicates(pa.array(ids, pa.large_string()), f"{path}: line", first=1)
    return ids


def with_attributes(products: pa.Table, path: Path) -> pa.Table:
    """The attributes of each product, in the order of `products`; one that the file lacks has none."""
    try:
        given = checked(pq.read_table(path))
    except FileNotFoundError as error:  # Its own message is the path, and no more.
        raise BadCatalogue(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise BadCatalogue(f"{path}: {error}") from error
    except BadCatalogue as error:
        raise BadCatalogue(f"{path}: {error}") from error
    unknown = pc.index(pc.is_in(given["id"], value_set=products["id"]), False).as_py()
    if unknown >= 0:
        raise BadCatalogue(f"{path}: row {unknown}: no vector has the id {given['id'][unknown].as_py()!r}")
    rows = pc.index_in(products["id"], value_set=given["id"])
    columns = {name: given[name].take(rows) for name in given.column_names if name != "id"}
    return pa.table({"id": products["id"], **columns})


def _report(location: Location, name: str, *, as_json: bool) -> None:
    manifest = location.read(name)
    (space,) = manifest.spaces
    recall = min(index.recall_at_10 for index in space.indexes)
    if as_json:
        report = {"version": name, "products": sum(manifest.products), "shards": manifest.shards}
        recipes = [index.recipe for index in space.indexes]
        print(json.dumps({**report, "dim": space.dim, "recipes": recipes, "recall_at_10": recall}))
    else:
        print(f"{location}: version {name} serves: {sum(manifest.products)} products in {manifest.shards} shards,")
        print(f"{space.name} {space.dim}-d, {space.indexes[0].recipe}, recall@10 {recall:.3f}")
