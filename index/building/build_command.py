"""`lookalike index build`: build an index over vectors you already have. Reads files; errors name the row at fault."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.backends.recipe import ALLOWED
from index.building import build
from index.building.auto_recipe import describe
from index.building.staging import publish, staging_directory
from index.storage.attributes import refuse_duplicates, validate_products
from index.storage.vectors import RESCORE_DTYPES
from lookalike.cli import arguments, npy_files
from lookalike.cli.progress import stage_progress_bar
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings
from lookalike.limits import MAX_ID_BYTES
from lookalike.releases.location import Location, open_location
from lookalike.releases.manifest import Manifest
from lookalike.releases.store import ObjectStore
from lookalike.releases.version_change import current_manifest, tell_what_is_lost
from lookalike.runtime.engine_options import RAY, add_engine_options, open_engine
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
    vectors = read_vectors(options.vectors)
    ids = read_ids(options.ids) if options.ids else [str(row) for row in range(len(vectors))]
    if len(ids) != len(vectors):
        raise BadCatalogue(f"{options.ids}: {len(ids)} ids for {len(vectors)} vectors in {options.vectors}")
    products = pa.table({"id": pa.array(ids, pa.large_string())})
    if options.attributes:
        products = join_attributes(products, options.attributes)
    space_vectors = build.SpaceVectors(encoder=options.encoder, vectors=vectors, rows=np.arange(len(vectors)))
    location = open_location(options.location)
    before = current_manifest(location)
    if options.engine == RAY and isinstance(location, ObjectStore) and options.staging is None:
        raise BadSettings(f"--engine ray: building for {location} needs --staging, a directory that all nodes share")
    with (
        open_engine(options, threads=options.threads) as engine,
        staging_directory(location, options.staging) as directory,
        stage_progress_bar() as progress,
    ):
        name = build.build(
            directory,
            products,
            {space_number(options.space): space_vectors},
            shards=options.shards,
            options=build.IndexOptions(
                recipe=options.recipe,
                rescore=options.rescore,
                recall=options.recall,
                bytes_per_vector=options.bytes_per_vector,
            ),
            seed=options.seed,
            threads=options.threads or len(os.sched_getaffinity(0)),
            engine=engine,
            progress=progress,
        )
        publish(location, directory, name)
    manifest = location.read_manifest(name)
    _print_report(location, manifest, as_json=options.json)
    tell_what_is_lost(before, manifest)
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
    parser.add_argument(
        "--vectors",
        required=True,
        type=Path,
        help="NumPy file, float32 (n, dim), memory-mapped; other floats and small integers are cast",
    )
    parser.add_argument(
        "--ids",
        type=Path,
        help="the id of each vector: a text file, one on a line, or a NumPy file; default: 0, 1, 2, …",
    )
    parser.add_argument(
        "--attributes", type=Path, help="Parquet file with `id` and any of title, category, shop, tags, …"
    )
    parser.add_argument("--space", required=True, choices=VECTOR_SPACES, help="space of the vectors")
    parser.add_argument(
        "--shards", type=int, default=1, help="number of shards, each served by its own process (default: 1)"
    )
    parser.add_argument(
        "--recipe",
        default=build.DEFAULT_OPTIONS.recipe,
        help="how vectors are indexed, a faiss-style factory string (default: auto, exact search of few vectors, the "
        f"fastest on a sample of many): {ALLOWED}",
    )
    parser.add_argument(
        "--bytes-per-vector",
        type=float,
        help="memory that auto may choose an index of, per vector (default: what HNSW32,SQ8 takes)",
    )
    parser.add_argument(
        "--rescore",
        default=build.DEFAULT_OPTIONS.rescore,
        choices=RESCORE_DTYPES,
        help="type of the full vectors on disk; float16 takes half the space and rounds scores",
    )
    parser.add_argument(
        "--recall",
        type=float,
        default=build.DEFAULT_OPTIONS.recall,
        help="target recall@k for every k; exact search where it is out of reach (default: 0.95)",
    )
    parser.add_argument(
        "--encoder", default="vectors", help="fingerprint of the encoder of the vectors (default: vectors)"
    )
    parser.add_argument("--seed", type=arguments.seed, default=0, help="of training and calibration (default: 0)")
    parser.add_argument("--threads", type=arguments.threads, default=0, help="cores to use; 0: all (default)")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


_CAST_ROWS = 65_536
_EXACT_INTEGERS = 1 << 53  # As float64, all integers up to here are different.


def read_vectors(path: Path) -> F32:
    """(n, dim) float32, memory-mapped. Other floats and small integers are cast, which is told on standard error.

    Raises BadArtifact; the values are checked when they are copied.
    """
    try:
        vectors = npy_files.read(path, mapped=True)
    except ValueError as error:
        raise BadArtifact(f"{path}: {error}") from error
    kind, size = vectors.dtype.kind, vectors.dtype.itemsize
    # float64 is rounded by 6e-8 of a value, far less than any index keeps; integers of 16 bits stay what they are.
    if vectors.ndim != 2 or not vectors.size or not ((kind == "f" and size <= 8) or (kind in "iu" and size <= 2)):
        raise BadArtifact(f"{path}: {vectors.dtype} {vectors.shape}, not an array of floats (n, dim)")
    if vectors.dtype == np.dtype("<f4"):
        return np.asarray(vectors)
    print(f"notice: {path}: {vectors.dtype.name} is cast to float32", file=sys.stderr)
    with tempfile.TemporaryFile() as file:  # The map keeps it, without a name.
        cast: F32 = np.memmap(file, "<f4", "w+", shape=vectors.shape)
    with np.errstate(over="ignore"):  # To infinity, which is refused with its row.
        for start in range(0, len(vectors), _CAST_ROWS):
            cast[start : start + _CAST_ROWS] = vectors[start : start + _CAST_ROWS]
    return cast


def read_ids(path: Path) -> list[str]:
    """Read one id per line, or texts or whole numbers of a .npy file. Raises BadCatalogue naming the line (from 1)."""
    lines = _npy_ids(path) if path.suffix == ".npy" else _id_lines(path)
    ids = []
    for number, line in enumerate(lines, start=1):
        product_id = line.removesuffix(b"\r")
        if not 1 <= len(product_id) <= MAX_ID_BYTES:
            raise BadCatalogue(f"{path}: line {number}: an id has 1..{MAX_ID_BYTES} bytes, not {len(product_id)}")
        try:
            ids.append(product_id.decode())
        except UnicodeDecodeError as error:
            raise BadCatalogue(f"{path}: line {number}: not UTF-8: {error.reason}") from None
    refuse_duplicates(pa.array(ids, pa.large_string()), f"{path}: line", first=1)
    return ids


def _id_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise BadCatalogue(f"{path}: {error}") from error


def _npy_ids(path: Path) -> list[bytes]:
    try:
        ids = npy_files.read(path)
    except ValueError as error:
        raise BadCatalogue(f"{path}: {error}") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iufU":
        raise BadCatalogue(f"{path}: {ids.dtype} {ids.shape}, not an array of texts or whole numbers (n,)")
    if ids.dtype.kind == "f":
        print(f"notice: {path}: {ids.dtype.name} is cast to whole numbers", file=sys.stderr)
        wrong = np.flatnonzero(~((np.abs(ids) <= _EXACT_INTEGERS) & (ids == np.floor(ids))))
        if len(wrong):
            raise BadCatalogue(f"{path}: id {wrong[0] + 1}: {ids[wrong[0]]} is not a whole number of up to 2^53")
        ids = ids.astype(np.int64)
    return [str(product_id).encode() for product_id in ids.tolist()]


def join_attributes(products: pa.Table, path: Path) -> pa.Table:
    """Join attributes from a Parquet file, in the order of `products`; a product that is not in the file has none."""
    try:
        attributes = validate_products(_with_text_ids(pq.read_table(path), path))
    except FileNotFoundError as error:  # Its own message is only the path.
        raise BadCatalogue(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise BadCatalogue(f"{path}: {error}") from error
    except BadCatalogue as error:
        raise BadCatalogue(f"{path}: {error}") from error
    unknown = pc.index(pc.is_in(attributes["id"], value_set=products["id"]), False).as_py()
    if unknown >= 0:
        raise BadCatalogue(f"{path}: row {unknown}: no vector has the id {attributes['id'][unknown].as_py()!r}")
    rows = pc.index_in(products["id"], value_set=attributes["id"])
    columns = {name: attributes[name].take(rows) for name in attributes.column_names if name != "id"}
    return pa.table({"id": products["id"], **columns})


def _with_text_ids(attributes: pa.Table, path: Path) -> pa.Table:
    """With numbers as ids as text: whole ones, though pandas makes those of a column with gaps floating-point."""
    column = attributes.schema.get_field_index("id")
    kind = attributes.schema.field(column).type if column >= 0 else pa.large_string()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return attributes
    print(f"notice: {path}: the ids are cast from {kind} to text", file=sys.stderr)
    whole = attributes["id"].cast(pa.int64())  # ArrowInvalid for a fraction
    return attributes.set_column(column, "id", whole.cast(pa.large_string()))


def _print_report(location: Location, manifest: Manifest, *, as_json: bool) -> None:
    (space,) = manifest.spaces
    recall = min(index.recall_at_10 for index in space.indexes)
    if as_json:
        report = {"version": manifest.version, "products": sum(manifest.products), "shards": manifest.shards}
        recipes = [index.recipe for index in space.indexes]
        choice = None if space.choice is None else asdict(space.choice)
        print(json.dumps({**report, "dim": space.dim, "recipes": recipes, "recall_at_10": recall, "auto": choice}))
    else:
        products = f"{sum(manifest.products)} products in {manifest.shards} shards"
        print(f"{location}: version {manifest.version} serves: {products},")
        print(f"{space.name} {space.dim}-d, {space.indexes[0].recipe}, recall@10 {recall:.3f}")
        if space.choice is not None:
            print("\n".join(describe(space.choice)))
