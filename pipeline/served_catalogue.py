"""The products that a gateway serves, as the catalogue of an update. Network I/O, and writes a file.

They are the version as it was built with every change since, made by workers or directly: the newest revision of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from lookalike.cli.catalog.export import row
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadArtifact, BadSettings, NotFound
from lookalike.releases.location import Location
from lookalike.runtime.concurrently import run_concurrently
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, unpack
from pipeline.gateway import Gateway
from pipeline.image_encoding import with_retries

_CALLS_AT_ONCE = 16  # Of the 64 that a gateway admits by default.


async def check_version(gateway: Gateway, location: Location) -> None:
    """Raises BadSettings where a gateway serves no version of this location."""
    name = await gateway.version()
    try:
        location.read_manifest(name)
    except BadArtifact as error:
        raise BadSettings(f"{gateway.address} serves version {name}, which is not in {location}: {error}") from error


async def save_products(gateway: Gateway, directory: Path) -> int:
    """Write all products to a products file in `directory`. Returns how many there are: all, or an error is raised."""
    written = 0
    with (
        (directory / "products.jsonl").open("wb") as file,
        progress_bar("reading the products that are served") as count,
    ):
        async for product in gateway.products():
            file.write(orjson.dumps(row(product), option=orjson.OPT_APPEND_NEWLINE))
            written += 1
            count()
    return written


async def image_vectors(gateway: Gateway, product_ids: Sequence[str], *, encoder: str, dim: int) -> Mapping[str, F32]:
    """The image vectors, (dim,) each, of those of the products that have one by this encoder."""
    at_once = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def vector_of(product_id: str) -> F32 | None:
        try:
            async with at_once:
                response = await with_retries(lambda: gateway.get(product_id, [SPACE_IMAGE]))
        except NotFound:  # Removed meanwhile.
            return None
        vector = next((each.vector for each in response.vectors if each.encoder == encoder), None)
        return None if vector is None else unpack(vector, dim)[0]

    vectors = await run_concurrently(map(vector_of, product_ids))
    return {product_id: vector for product_id, vector in zip(product_ids, vectors, strict=True) if vector is not None}
