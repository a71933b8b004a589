"""Keys of a real node are rotated under load: no call fails, and the old key is refused within seconds."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.meter import COMMAND
from index.building.build import build
from lookalike.access.file_key_store import FileKeyStore
from lookalike.access.key import AccessKey, new_key
from lookalike.channels import blocking_channel
from lookalike.client import Client
from lookalike.credentials import KeyFile
from lookalike.errors import LookalikeError, Unauthenticated
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from pipeline.gateway_metrics import read_pages
from tests.conftest import REPOSITORY
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

DIM, CALLERS, SOON_S = 8, 4, 5.0


@dataclass(frozen=True)
class Node:
    """A node that asks for keys."""

    address: str
    metrics: str
    store: FileKeyStore
    folder: Path

    def key(self, *scopes: str) -> tuple[AccessKey, str]:
        """A key that the node knows."""
        key, token = new_key("test", frozenset(scopes), now_s=1000)
        self.store.put(key)
        self.wait_for(token, known=True)
        return key, token

    def wait_for(self, token: str, *, known: bool) -> None:
        """Until the node knows a key, or does so no more."""
        give_up_s = monotonic() + SOON_S
        with Client(self.address, api_key=token, retry=None) as client:
            while self.knows(client) is not known:
                assert monotonic() < give_up_s
                sleep(0.05)

    @staticmethod
    def knows(client: Client) -> bool:
        try:
            client.exists(["p1"])
        except Unauthenticated:
            return False
        except LookalikeError:  # Its scope is another.
            pass
        return True

    def read_metrics(self, token: str) -> str:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.metrics, headers=headers)  # noqa: S310  # of our own
        with urllib.request.urlopen(request, timeout=10) as page:  # noqa: S310
            text: str = page.read().decode()
        return text


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("keys")
    build(folder / "index", catalogue(200), {IMAGE: vectors_of(unit_vectors(200, DIM))}, shards=1)
    port, metrics_port = free_ports(2)
    address = f"127.0.0.1:{port}"
    command = [*COMMAND, "serve", "node", "--location", str(folder / "index"), "--port", str(port)]
    command += ["--keys", str(folder / "keys.json"), "--metrics-port", str(metrics_port), "--log-level", "debug"]
    with Supervisor(folder / "logs", os.environ, directory=REPOSITORY, stop_s=30) as processes:  # noqa: TID251  # passed on
        processes.start("node", command, ready=partial(is_serving, address))
        processes.wait_ready(timeout_s=120)
        yield Node(address, f"http://127.0.0.1:{metrics_port}/metrics", FileKeyStore(folder / "keys.json"), folder)


def test_no_call_fails_while_keys_are_rotated_and_the_old_one_is_refused_soon_after(node: Node) -> None:
    (old, old_token), file = node.key("search"), node.folder / "key"
    file.write_text(old_token)
    vectors = unit_vectors(200, DIM)
    answered, failed, stop = Counter[str](), list[str](), threading.Event()

    def call() -> None:
        key = KeyFile(file)
        with Client(node.address, api_key=key, retry=None) as client:
            while not stop.is_set():
                with_key = key()
                try:
                    client.search(vector=vectors[answered.total() % 200], space="image", limit=5)
                    answered[with_key] += 1
                except LookalikeError as error:
                    failed.append(str(error))
                sleep(0.005)

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        _, new_token = node.key("search")
        (node.folder / "new").write_text(new_token)
        os.replace(node.folder / "new", file)
        give_up_s = monotonic() + SOON_S
        while answered[new_token] < 50:  # Every caller has the new key by now.
            assert not failed
            assert monotonic() < give_up_s
            sleep(0.05)
        node.store.remove(old.id)
        node.wait_for(old_token, known=False)
        sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert answered[old_token] > 50
    logs = "".join(path.read_text() for path in (node.folder / "logs").iterdir())
    assert logs
    for token in (old_token, new_token):
        assert token.split("_")[2] not in logs


async def test_the_metrics_page_needs_the_scope_admin(node: Node) -> None:
    _, searcher = node.key("search")
    _, admin = node.key("admin")
    for token, status in (("", 401), (searcher, 403)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            node.read_metrics(token)
        caught.value.close()
        assert caught.value.code == status
    assert not (await read_pages([node.metrics], 10, admin)).failures  # As the watch after publishing does.
    page = node.read_metrics(admin)
    assert 'lookalike_callers_refused_total{reason="missing"}' in page
    assert "lookalike_access_keys " in page


def test_reflection_needs_a_key_of_any_scope_and_health_none(node: Node) -> None:
    _, token = node.key("write")
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with blocking_channel(node.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ServerReflectionInfo(iter([request])))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reply = next(stub.ServerReflectionInfo(iter([request]), metadata=(("authorization", f"Bearer {token}"),)))
    names = {service.name for service in reply.list_services_response.service}
    assert {"lookalike.v1.SimilarProducts", "lookalike.v1.Catalog", "grpc.health.v1.Health"} <= names
    assert is_serving(node.address)
