"""The measured constants that plans are made of, each with the benchmark it is from. Pure: values only.

`tests/unit/pipeline/test_sizing.py` holds them equal to the files in benchmarks/results.
"""

from __future__ import annotations

from dataclasses import dataclass

XEON = "2 cores of an Intel Xeon, shared"
EPYC = "2 cores of an AMD EPYC, shared"


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A measured value."""

    name: str
    value: float
    unit: str
    source: str  # A file of benchmarks/results, and where in it.
    measured_at: str  # The size it was measured at.
    machine: str = XEON
    largest: int = 0  # The most products of a shard that it was measured with; 0: it does not depend on them.


@dataclass(frozen=True, kw_only=True)
class RecipeConstants:
    """What an index of 1024-d vectors costs at recall@10 ≥ .95, at 100,000 and at 1,000,000 in a shard.

    Of the tables `ngt_comparison_100000` and `ngt_comparison_1000000_graphs`, both on an Intel Xeon.
    """

    recipe: str
    queries_per_s: tuple[float, float]  # Of one core, one query at a time, rescoring included, vectors cached.
    build_cpu_s: tuple[float, float]  # Of the ANN index alone.
    ram_bytes: float  # Per vector, of the process, at 1,000,000: more than the formula of `cost_model`.
    rescored_pages: float  # Read from disk by a query when no full vector is cached, at 1,000,000.


SMALL, LARGE = 100_000, 1_000_000  # The sizes of RecipeConstants.
RECALL = 0.95
RECIPES = {
    each.recipe: each
    for each in (
        RecipeConstants(
            recipe="PCAR256,IVF,RaBitQfs",
            queries_per_s=(6020.5, 3112.0),
            build_cpu_s=(17.0, 102.8),
            ram_bytes=67.0,
            rescored_pages=39.0,
        ),
        RecipeConstants(
            recipe="PCAR256,HNSW24,SQ8",
            queries_per_s=(7672.8, 3705.7),
            build_cpu_s=(14.6, 228.8),
            ram_bytes=474.8,
            rescored_pages=19.7,
        ),
        RecipeConstants(
            recipe="HNSW32,SQ8",
            queries_per_s=(3733.1, 1914.3),
            build_cpu_s=(32.7, 685.7),
            ram_bytes=1305.7,
            rescored_pages=19.7,
        ),
        RecipeConstants(
            recipe="PCAR256,SymQG32",
            queries_per_s=(15367.6, 9163.2),
            build_cpu_s=(31.8, 382.7),
            ram_bytes=1683.4,
            rescored_pages=19.7,
        ),
        RecipeConstants(
            recipe="SymQG32",
            queries_per_s=(20744.9, 12165.1),
            build_cpu_s=(68.4, 770.8),
            ram_bytes=5522.2,
            rescored_pages=9.9,
        ),
    )
}

PROCESS_BYTES = Constant(
    name="memory of a shard's process",
    value=70e6,
    unit="B",
    source="shard_start.json own_mb_with_1000_vectors",
    measured_at="1,000 products",
)
MEMORY_PER_PRODUCT = Constant(
    name="memory of a product beside its index",
    value=1.9,
    unit="B",
    source="shard_start.json own_bytes_per_vector of PCAR128,IVF,RaBitQ@0.9, less 27.6 of its index",
    measured_at="1,000,000 products",
    largest=1_000_000,
)
TABLE_BYTES = Constant(
    name="table of products on disk",
    value=586.27,
    unit="B per product",
    source="product_bytes.json per_product",
    measured_at="80,000 products, with descriptions",
    largest=80_000,
)
SHA256_RATE = Constant(
    name="checksums",
    value=1.38e9,
    unit="B per second of a core",
    source="swap.json verify.gb_per_cpu_s",
    measured_at="0.44 GB",
    machine=EPYC,
)
READY_S_PER_GB = Constant(
    name="start of a shard",
    value=3.6,
    unit="s per GB of files on a disk of 0.4 GB/s",
    source="shard_start.json ready_s, out of the page cache, by files_gb, PCAR128,IVF,RaBitQ@0.95",
    measured_at="2.2 GB",
    largest=1_000_000,
)
PHOTO_MS = Constant(
    name="photo to vector",
    value=13.74,
    unit="ms of CPU",
    source="image_model.json float32, batches of 8",
    measured_at="MobileNet v1, 224 px",
    machine=EPYC,
)
DECODE_MS = Constant(
    name="decoding of a photo",
    value=2.03,
    unit="ms of CPU",
    source="image_queries.json 400 px",
    measured_at="JPEG of 400 px",
)
TITLE_US = Constant(
    name="title to vector",
    value=182.9,
    unit="µs of CPU",
    source="text_features.json offers, hybrid, batches of 64",
    measured_at="16,564 titles",
    largest=16_564,
)
READ_US = Constant(
    name="reading a row of a catalogue",
    value=50.5,
    unit="µs of CPU",
    source="catalogue_import.json cpu_s by rows",
    measured_at="1,000,000 rows, one process",
    largest=1_000_000,
)
PATCH_US = Constant(
    name="patch at a shard",
    value=137.7,
    unit="µs of CPU",
    source="change_stream.json patches",
    measured_at="a shard of 100,000, batches of 1,000",
    largest=100_000,
)
UPSERT_US = Constant(
    name="upsert with vectors at a shard",
    value=400.7,
    unit="µs of CPU",
    source="change_stream.json upserts",
    measured_at="a shard of 100,000, batches of 500",
    largest=100_000,
)
PATCH_RATE = Constant(
    name="patches of a node",
    value=7420,
    unit="per s",
    source="change_stream.json patches",
    measured_at="one shard of 100,000, two cores",
    largest=100_000,
)
UPSERT_RATE = Constant(
    name="upserts of a node",
    value=3651,
    unit="per s",
    source="change_stream.json upserts",
    measured_at="one shard of 100,000, two cores",
    largest=100_000,
)
LOG_UPSERT_OVERHEAD = Constant(
    name="upsert in the log, beside its vectors",
    value=244.8,
    unit="B",
    source="product_bytes.json log_bytes_per_change, upsert one a write, less 6,144 B of vectors",
    measured_at="1,000 changes",
)
LOG_PATCH_BYTES = Constant(
    name="patch of price and stock in the log",
    value=62.0,
    unit="B",
    source="product_bytes.json log_bytes_per_change, one a write",
    measured_at="1,000 changes",
)
CACHE_HIT_US = Constant(
    name="cache hit at the gateway, in memory",
    value=105.0,
    unit="µs of CPU",
    source="cache_hits.json rows.memory",
    measured_at="16 in flight",
)
SHARD_US = Constant(
    name="a search at a shard, beside its index",
    value=187.1,
    unit="µs of CPU",
    source="serving.json gateway PCAR256,SymQG32: what a second shard adds, less its search and the gateway's part",
    measured_at="1 and 2 shards of one machine, 16 in flight",
)
GATEWAY_US = Constant(
    name="a search at the gateway",
    value=40.51,
    unit="µs of CPU",
    source="serving.json gateway PCAR256,SymQG32: with one shard, less what a shard adds",
    measured_at="1 and 2 shards of one machine, 16 in flight",
)
GATEWAY_SHARD_US = Constant(
    name="each shard that the gateway asks",
    value=111.2,
    unit="µs of CPU",
    source="serving.json and the gateway's threads in benchmarks/README.md: half of 263, less what no shard adds",
    measured_at="2 shards of one machine, 16 in flight",
)
CALIBRATION_US = Constant(
    name="building a shard with inverted lists, beside its index",
    value=143.5,
    unit="µs of CPU per vector",
    source="index_builds.json PCAR256,IVF,RaBitQfs: from 10,000 to 40,000, less the index alone",
    measured_at="40,000 vectors",
    largest=40_000,
)
CALIBRATION_GRAPH_US = Constant(
    name="building a shard with a graph, beside its index",
    value=707.8,
    unit="µs of CPU per vector",
    source="index_builds.json PCAR256,SymQG32: from 10,000 to 40,000, less two indexes alone",
    measured_at="40,000 vectors, SymphonyQG",
    largest=40_000,
)
