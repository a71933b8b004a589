"""A gateway, its shards and encoders, and all that call it, with certificates on every hop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lookalike import channels
from lookalike.access.file_key_store import FileKeyStore
from lookalike.access.key import new_key
from lookalike.changes import upsert_change
from lookalike.client import AsyncClient, Client, SearchArguments
from lookalike.errors import BadSettings, PermissionDenied, Unauthenticated, Unavailable
from lookalike.local import certificates
from lookalike.v1.catalog_pb2 import BatchWriteRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from pipeline.gateway import Gateway
from tests.certificates import tls_of
from tests.rpc.gateways import a_photo, scripted_system


@pytest.fixture
def certs(tmp_path: Path) -> Iterator[Path]:
    certificates.write_all(tmp_path, ["gateway", "client"], [], datetime.now(UTC), 1, renew=False)
    channels.use_tls(tls_of(tmp_path, "gateway"))
    yield tmp_path
    channels.use_tls(None)


async def test_every_kind_of_call_is_answered_over_every_hop(certs: Path) -> None:
    async with scripted_system() as system:
        tls = tls_of(certs, "client")
        async with AsyncClient(system.address, tls=tls) as client, Gateway(system.address) as pipeline:
            listed = [product.id async for product in client.list(limit=3)]
            queries: list[SearchArguments] = [{"product_id": listed[0]}, {"image": a_photo(7)}, {"text": "red shoe"}]
            for query in queries:
                assert (await client.search(**query)).provenance.coverage == 1.0
            assert await client.classify(text="red shoe", image=a_photo(7))
            assert [position async for position, _ in client.search_stream([{"product_id": each} for each in listed])]
            product = Product(id="new", category="home", title="red shoe")
            change = upsert_change(product, revision=9, encode=True, image=a_photo(7))
            assert (
                not (await pipeline.batch_write(BatchWriteRequest(changes=[change]), 10.0)).results[0].HasField("error")
            )
            assert await pipeline.encoder(SPACE_IMAGE)


async def test_a_client_that_shows_no_certificate_is_not_answered_and_told_what_may_be_wrong(certs: Path) -> None:
    async with scripted_system() as system:
        channels.use_tls(None)
        async with AsyncClient(system.address, timeout_s=2, retry=None) as client:
            with pytest.raises(Unavailable, match="it may want TLS"):
                await client.count()


def test_a_client_whose_files_cannot_be_used_says_so_at_once(certs: Path) -> None:
    with pytest.raises(BadSettings, match="nobody"):
        Client("127.0.0.1:1", tls=tls_of(certs, "nobody"))


async def test_a_certificate_may_do_what_the_store_of_keys_lets_its_name_do(certs: Path, tmp_path: Path) -> None:
    named, _ = new_key("shop", frozenset({"search"}), now_s=1, identity="client")
    key, token = new_key("night", frozenset({"read"}), now_s=1)
    store = FileKeyStore(tmp_path / "keys.json")
    store.put(named)
    store.put(key)
    async with scripted_system(keys=str(tmp_path / "keys.json")) as system:
        own = tls_of(certs, "client")
        async with AsyncClient(system.address, tls=own, retry=None) as client:
            assert (await client.search(product_id="p01")).provenance.coverage == 1.0
            with pytest.raises(PermissionDenied, match="scope write"):
                await client.remove("p01", revision=1)
        async with AsyncClient(system.address, tls=own, api_key=token, retry=None) as client:
            assert await client.count()  # The key goes before the certificate.
            with pytest.raises(PermissionDenied, match="scope search"):
                await client.search(product_id="p01")
        async with AsyncClient(system.address, tls=tls_of(certs, "gateway"), retry=None) as client:
            with pytest.raises(Unauthenticated):
                await client.search(product_id="p01")
