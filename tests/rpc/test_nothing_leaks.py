"""What callers are told while dependencies fail: no address, path, secret or name of a library, by any method.

A real gateway and a real Redis with a password; shards and encoders are scripted, behind real servers that go away.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lookalike.changes import upsert_change
from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.runtime.telemetry import TextFormatter
from lookalike.v1 import admin_pb2, catalog_pb2, search_pb2
from lookalike.v1.admin_pb2 import (
    CreateKeyRequest,
    CutOverRequest,
    DrainRequest,
    FlushCacheRequest,
    GetStatusRequest,
    ListKeysRequest,
    ListReleasesRequest,
    RevokeKeyRequest,
    RollBackRequest,
    SetCanaryRequest,
)
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    CountRequest,
    EnqueueRequest,
    ExistsRequest,
    GetRequest,
    ListRequest,
    PatchRequest,
    RemoveRequest,
    RemoveWhereRequest,
    UpsertRequest,
    WaitRequest,
)
from lookalike.v1.search_pb2 import (
    BatchSearchRequest,
    ClassifyRequest,
    Example,
    FindDuplicatesRequest,
    SearchRequest,
    SearchStreamRequest,
)
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Filter, Product
from server.app import SERVICES
from tests.edges import IMPLEMENTATIONS
from tests.redis_servers import RedisServer
from tests.rpc.gateways import (
    ScriptedModelServer,
    ScriptedProductEncoder,
    ScriptedShard,
    ScriptedTextEncoder,
    a_photo,
    running_gateway,
    serving,
)

PASSWORD = "p@ss:w/rd%#"  # noqa: S105  # of a Redis of these tests
MODEL_PATH = "/srv/models/mobilenet/7"
FORBIDDEN = re.compile(
    r"""\d+\.\d+\.\d+\.\d+ | localhost | \[::1\] | ipv[46]: | unix: | :\d{4,5}\b     # addresses
      | /(srv|tmp|home|work|usr|etc|var)/ | \.py\b | site-packages | Traceback   # paths and stacks
      | p@ss | w/rd | p%40ss | rd%                                                       # the password
      | redis | grpc | uvloop | asyncio | tensorflow | faiss | numpy | Errno | errno
      | recvmsg | Socket | refused | connecting | remote\ host | python | http2 | aiohttp""",
    re.VERBOSE | re.IGNORECASE,
)
TYPE_NAMES = re.compile(r"type\.googleapis\.com/google\.rpc\.\w+")


def a_change() -> catalog_pb2.Change:
    return upsert_change(Product(id="p01", title="p01", category="home"), revision=3, encode=True, image=a_photo(1))


# Several of one method reach different dependencies. A method that is missing here fails the test.
REQUESTS: Mapping[str, Sequence[Message]] = {
    "Search": [
        SearchRequest(examples=[Example(product_id="p01")]),
        SearchRequest(examples=[Example(text="p02")], explain=True, diversity=0.5),
        SearchRequest(examples=[Example(image=a_photo(3))], space=SPACE_IMAGE),
        SearchRequest(examples=[Example(text="p04")], space=SPACE_TEXT, min_coverage=1),
    ],
    "BatchSearch": [BatchSearchRequest(requests=[SearchRequest(examples=[Example(text=f"p0{i}")]) for i in range(3)])],
    "SearchStream": [SearchStreamRequest(id=1, request=SearchRequest(examples=[Example(text="p05")]))],
    "FindDuplicates": [FindDuplicatesRequest(example=Example(text="p06"), space=SPACE_TEXT, min_score=0.5)],
    "Classify": [ClassifyRequest(product_id="p07"), ClassifyRequest(image=a_photo(7), text="p07")],
    "Get": [GetRequest(product_id="p01"), GetRequest(product_id="p02")],
    "Exists": [ExistsRequest(product_ids=[f"p{i:02}" for i in range(8)])],
    "Count": [CountRequest()],
    "List": [ListRequest()],
    "Upsert": [UpsertRequest(product=Product(id="p08", title="p08", category="home"), revision=2, encode=True)],
    "Patch": [PatchRequest(product=Product(id="p09", price=1), update_mask=FieldMask(paths=["price"]), revision=2)],
    "Remove": [RemoveRequest(product_id=f"p{i}", revision=2) for i in range(10, 14)],
    "BatchWrite": [BatchWriteRequest(changes=[a_change()])],
    "Write": [BatchWriteRequest(changes=[a_change()])],
    "RemoveWhere": [RemoveWhereRequest(filter=Filter(category_in=["home"]), revision=9)],
    "Enqueue": [EnqueueRequest(changes=[a_change()])],
    "GetStatus": [GetStatusRequest()],
    "ListReleases": [ListReleasesRequest()],
    "CutOver": [CutOverRequest(release="0123456789abcdef")],
    "RollBack": [RollBackRequest()],
    "SetCanary": [SetCanaryRequest(release="0123456789abcdef", share=0.5)],
    "ListKeys": [ListKeysRequest()],
    "CreateKey": [CreateKeyRequest(name="shop", scopes=["search"])],
    "RevokeKey": [RevokeKeyRequest(id="0123456789ab")],
    "FlushCache": [FlushCacheRequest()],
    "Drain": [DrainRequest()],
    "Wait": [WaitRequest(handles=["0123abcd.0.1-1"])],
}


@dataclass
class System:
    """A gateway, and everything that it depends on."""

    redis: RedisServer
    shards: list[ScriptedShard]
    text_encoder: ScriptedTextEncoder
    product_encoder: ScriptedProductEncoder
    model_server: ScriptedModelServer
    channel: grpc.aio.Channel
    servers: Mapping[str, AsyncExitStack] = field(default_factory=dict)  # To close: that process is gone.
    secrets: Sequence[str] = ()

    async def stop(self, *names: str) -> None:
        for name in names:
            await self.servers[name].aclose()


@asynccontextmanager
async def a_system(directory: Path) -> AsyncIterator[System]:
    shards = [ScriptedShard(i, spaces=(SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)) for i in range(2)]
    text, product, model = ScriptedTextEncoder(), ScriptedProductEncoder(), ScriptedModelServer()
    handlers = {
        "shard 0": [shards[0].handler()],
        "shard 1": [shards[1].handler()],
        "text encoder": [text.handler(), product.handler()],
        "model server": [model.handler()],
    }
    async with AsyncExitStack() as stack:
        redis = RedisServer(directory, requirepass=PASSWORD)
        redis.url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{redis.port}"
        stack.enter_context(redis)
        servers = {name: await stack.enter_async_context(AsyncExitStack()) for name in handlers}
        addresses = {name: await servers[name].enter_async_context(serving(*handlers[name])) for name in handlers}
        settings = {
            "shards": (addresses["shard 0"], addresses["shard 1"]),
            "text_encoder": (addresses["text encoder"],),
            "model_server": addresses["model server"],
            "redis": redis.url,
            "stream": redis.url,
            "refresh_s": 0.05,
            "admin": True,
            "releases": str(directory / "nowhere"),
            "audit_log": directory / "audit.log",
            "shard_timeout_s": 0.3,
            "default_deadline_s": 1.0,
            "shard_hang_s": 0.3,
        }
        address = await stack.enter_async_context(running_gateway(settings))
        channel = await stack.enter_async_context(aio_channel(address))
        ports = [each.rpartition(":")[2] for each in (*addresses.values(), redis.url)]
        yield System(redis, shards, text, product, model, channel, servers, ports)


async def answers(channel: grpc.aio.Channel, timeout_s: float = 3.0) -> list[str]:
    """Everything that callers of all methods are told: statuses, messages, trailers and replies, as text."""
    files = search_pb2.DESCRIPTOR, catalog_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR
    services = [service for file in files for service in file.services_by_name.values()]
    methods = {method.name: method for service in services for method in service.methods}
    assert set(methods) == set(REQUESTS), "a method without a request here"
    assert {service.full_name for service in services} == set(SERVICES)
    calls = [_call(channel, methods[name], each, timeout_s) for name, requests in REQUESTS.items() for each in requests]
    return [text for texts in await asyncio.gather(*calls) for text in texts]


async def _call(channel: grpc.aio.Channel, method: Any, request: Message, timeout_s: float) -> list[str]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = "stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary"
    reply_type = GetMessageClass(method.output_type)
    make = getattr(channel, "_".join(kinds))(path, type(request).SerializeToString, reply_type.FromString)
    call = make(iter([request]) if method.client_streaming else request, timeout=timeout_s)
    told = []
    try:
        if method.server_streaming:
            told += [str(reply) async for reply in call]
        else:
            told.append(str(await call))
    except grpc.aio.AioRpcError as error:
        told.append(f"{method.name}: {error.code().name}: {error.details()}")
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        for key, value in metadata or ():
            told.append(key.removeprefix("grpc-"))  # The prefix of the protocol's own.
            told.append(value.decode("latin-1") if isinstance(value, bytes) else value)
    return told


def leaks(told: Sequence[str], system: System) -> list[str]:
    found = []
    for text in told:
        plain = TYPE_NAMES.sub("", text)
        if (match := FORBIDDEN.search(plain)) or any(re.search(rf"\b{port}\b", plain) for port in system.secrets):
            found.append(f"{match and match[0]}: {text}")
    return found


Break = Callable[[System], Awaitable[object]]


async def _redis_down(system: System) -> None:
    system.redis.kill()


async def _redis_forgets_its_password(system: System) -> None:
    with system.redis.client() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(skipme=False)


async def _redis_full(system: System) -> None:
    with system.redis.client() as client:
        client.config_set("maxmemory", 1)


async def _disk_full(system: System) -> None:
    """Of the audit log: no file of this process may grow. The test ends it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(autouse=True)
def _room_on_the_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def _hung_shard(system: System) -> None:
    system.shards[0].hang = True


async def _bugs(system: System) -> None:
    bug: Any = RuntimeError(f"{MODEL_PATH}/saved_model.pb of 10.1.2.3:8500: numpy failed")
    system.shards[1].error = system.text_encoder.error = system.product_encoder.error = bug


async def _unavailable_behind(system: System) -> None:
    gone = Unavailable("peer 10.1.2.3:7000: ipv4:10.1.2.3:7000: Failed to connect to remote host: Connection refused")
    system.shards[0].error = system.shards[1].error = gone
    system.text_encoder.error = system.product_encoder.error = gone


def _model_server_says(code: grpc.StatusCode) -> Break:
    async def fail(system: System) -> None:
        system.model_server.error = code
        system.model_server.details = f"tensorflow/core/kernels.cc: {MODEL_PATH}: {code.name} at 10.1.2.3:8500"

    return fail


FAILURES: Mapping[str, Break] = {
    "a shard is down": lambda system: system.stop("shard 0"),
    "all shards are down": lambda system: system.stop("shard 0", "shard 1"),
    "a shard hangs": _hung_shard,
    "the text encoder is down": lambda system: system.stop("text encoder"),
    "the model server is down": lambda system: system.stop("model server"),
    "the model server has another model": _model_server_says(grpc.StatusCode.NOT_FOUND),
    "the model server refuses": _model_server_says(grpc.StatusCode.INVALID_ARGUMENT),
    "the model server is full": _model_server_says(grpc.StatusCode.RESOURCE_EXHAUSTED),
    "the model server has a bug": _model_server_says(grpc.StatusCode.INTERNAL),
    "shards and encoders have bugs": _bugs,
    "shards and encoders cannot reach others": _unavailable_behind,
    "Redis is down": _redis_down,
    "Redis has another password": _redis_forgets_its_password,
    "Redis is full": _redis_full,
    "the disk is full": _disk_full,
}


async def test_while_nothing_fails_no_address_path_or_secret_is_told(tmp_path: Path) -> None:
    async with a_system(tmp_path) as system:
        assert leaks(await answers(system.channel), system) == []


@pytest.mark.parametrize("failure", FAILURES)
async def test_whatever_fails_callers_are_told_no_address_path_library_or_secret(
    failure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with a_system(tmp_path) as system:
        await answers(system.channel)  # Everything is connected, and the stream is open.
        await FAILURES[failure](system)
        told = await answers(system.channel)
        assert leaks(told, system) == []
        assert leaks(await answers(system.channel), system) == []  # With what is known to be down.
    logged = caplog.text
    assert PASSWORD not in logged
    assert quote(PASSWORD, safe="") not in logged


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)
async def test_the_log_has_what_callers_are_not_told_by_the_id_of_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(TextFormatter())  # As processes have it.
    async with a_system(tmp_path) as system:
        await system.stop("shard 0", "shard 1")
        await asyncio.sleep(0.2)
        count: Any = system.channel.unary_unary("/lookalike.v1.Catalog/Count", CountRequest.SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await count(CountRequest(), timeout=3, metadata=[("x-request-id", "order-4711")])
        assert re.match(r"shard \d", refused.value.details() or "")
    (line,) = [each for each in caplog.text.splitlines() if "request_id=order-4711" in each]
    assert any(port in line for port in system.secrets), line
