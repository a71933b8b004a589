"""TLS between processes, with real certificates: who is answered, by whom, and what a rotation does."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue
from prometheus_client import REGISTRY

from lookalike import channels
from lookalike.channels import aio_channel, blocking_channel
from lookalike.errors import BadSettings, LookalikeError, PermissionDenied, Unavailable
from lookalike.local import certificates
from lookalike.local.probes import free_ports
from lookalike.renewed_channels import RenewedChannel
from lookalike.runtime import edge, lifecycle, metrics_page, security
from lookalike.runtime.call import Call, current
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.replicas import Replicas
from lookalike.runtime.settings import ProcessSettings
from lookalike.runtime.standard_services import SERVING, HealthService
from lookalike.status import to_error
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.tls import LOOK_S, PemFiles, Tls
from server.redis_result_cache import RedisResultCache
from tests.certificates import settings_of, tls_of
from tests.contract.test_edge import SERVICE, UNARY, echo_each, no_stream, request
from tests.redis_servers import RedisServer

CALL_S = 10.0


@dataclass(frozen=True, kw_only=True)
class EchoSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_ECHO_"


def issue(directory: Path, *roles: str, days: int = 1, names: tuple[str, ...] = ()) -> None:
    certificates.write_all(directory, roles, names, datetime.now(UTC), days, renew=True)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    issue(tmp_path, "gateway", "client")
    return tmp_path


@pytest.fixture(autouse=True)
def plain_afterwards() -> Iterator[None]:
    yield
    channels.use_tls(None)


async def tell_identities(request: BytesValue, deadline: Deadline) -> Message:
    return BytesValue(value=",".join(current().identities).encode())


@asynccontextmanager
async def server(settings: ProcessSettings) -> AsyncIterator[str]:
    """An echo server with TLS; its host:port. It answers with the names of the caller's certificate."""
    handler = edge.handler(SERVICE, {"Unary": tell_identities, "Stream": no_stream, "Both": echo_each})
    served = edge.server([handler], guard=security.guard_of(settings), tls_age_s=60)
    credentials = security.server_tls(security.server_files(settings))
    assert credentials is not None
    port = served.add_secure_port("127.0.0.1:0", credentials)
    await served.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await served.stop(None)


async def ask(address: str, tls: Tls | None) -> str:
    """What the server answers. Raises the LookalikeError that a caller gets."""
    channels.use_tls(tls)
    async with aio_channel(address) as channel:
        return await ask_on(channel)


async def ask_on(channel: Any) -> str:
    try:
        reply = await channel.unary_unary(UNARY)(request(), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        raise to_error(error) from error
    return BytesValue.FromString(reply).value.decode()


async def test_a_server_knows_its_caller_by_the_names_in_the_certificate(certs: Path) -> None:
    async with server(EchoSettings(**settings_of(certs, "gateway"))) as address:
        assert await ask(address, tls_of(certs, "client")) == "client"


async def test_a_server_that_asks_for_no_certificate_answers_whoever_knows_its_ca(certs: Path) -> None:
    async with server(EchoSettings(**{**settings_of(certs, "gateway"), "tls_client_ca": ""})) as address:
        assert await ask(address, Tls(ca=f"{certs}/ca.crt")) == ""


async def test_what_is_wrong_with_a_connection_is_said(certs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    issue(other, "client")
    own = tls_of(certs, "client")
    async with server(EchoSettings(**settings_of(certs, "gateway"))) as address:
        for tls, reason in (
            (tls_of(certs, "client", ca=f"{other}/ca.crt"), "not signed by the CA"),
            (tls_of(certs, "client", server_name="shard"), "of another name"),
            (tls_of(other, "client", ca=own.ca), "refuse this certificate"),
            (Tls(ca=own.ca), "refuse this certificate"),
            (None, "it may want TLS"),
        ):
            with pytest.raises(Unavailable, match=reason) as caught:
                await ask(address, tls)
            assert "Traceback" not in str(caught.value)
    plain = edge.server([])
    port = plain.add_insecure_port("127.0.0.1:0")
    await plain.start()
    with pytest.raises(Unavailable, match="does not speak TLS"):
        await ask(f"127.0.0.1:{port}", own)
    await plain.stop(None)


async def test_a_certificate_that_has_expired_is_refused_by_either_side(certs: Path) -> None:
    authority = certificates.read_authority(certs)
    assert authority is not None
    past = datetime.now(UTC) - timedelta(days=30)
    for role in ("old-gateway", "old-client"):
        issued = certificates.issue(authority, [role, "127.0.0.1"], past, 7, serves=True)
        (certs / role).mkdir()
        (certs / role / "tls.crt").write_bytes(issued.cert)
        (certs / role / "tls.key").write_bytes(issued.key)
        (certs / role / "ca.crt").write_bytes(authority.pem())
    async with server(EchoSettings(**settings_of(certs, "old-gateway"))) as address:
        with pytest.raises(Unavailable, match="certificate has expired"):
            await ask(address, tls_of(certs, "client"))
    async with server(EchoSettings(**settings_of(certs, "gateway"))) as address:
        with pytest.raises(Unavailable, match="refuse this certificate"):
            await ask(address, tls_of(certs, "old-client"))


async def test_of_the_certificates_of_a_ca_only_those_with_an_allowed_name_may_call(certs: Path) -> None:
    settings = EchoSettings(**settings_of(certs, "gateway"), tls_allowed_names=("gateway", "update"))
    async with server(settings) as address:
        assert (await ask(address, tls_of(certs, "gateway"))).startswith("gateway,")
        with pytest.raises(LookalikeError, match="the certificate of client may not call") as caught:
            await ask(address, tls_of(certs, "client"))
        assert type(caught.value).__name__ == "PermissionDenied"


async def test_an_address_that_was_resolved_from_a_name_must_have_the_certificate_of_the_name(certs: Path) -> None:
    authority = certificates.read_authority(certs)
    assert authority is not None
    issued = certificates.issue(authority, ["text-encoder"], datetime.now(UTC), 1, serves=True)  # Of no address.
    (certs / "gateway" / "tls.crt").write_bytes(issued.cert)
    (certs / "gateway" / "tls.key").write_bytes(issued.key)
    async with server(EchoSettings(**settings_of(certs, "gateway"))) as address:
        channels.use_tls(tls_of(certs, "client"))

        async def resolve(name: str) -> list[str]:
            return [address]

        async def ask_stub(stub: Any) -> bytes:
            return bytes(await stub(request(), timeout=CALL_S))

        for name, reached in (("text-encoder:1", True), ("shard:1", False)):
            replicas = Replicas[Any, bytes]([name], lambda channel: channel.unary_unary(UNARY), resolve)
            assert bool(await replicas.poll(ask_stub)) is reached
            await replicas.close()


def test_several_addresses_need_the_name_of_their_certificates(certs: Path) -> None:
    channels.use_tls(tls_of(certs, "client"))
    with pytest.raises(BadSettings, match="tls_server_name"):
        blocking_channel("10.0.0.1:50051,10.0.0.2:50051")


async def test_a_rotation_on_both_sides_fails_no_call_and_is_in_use_for_the_next_connection(certs: Path) -> None:
    async with server(EchoSettings(**settings_of(certs, "gateway"))) as address:
        channels.use_tls(tls_of(certs, "client"))
        async with aio_channel(address) as channel:
            before = await asyncio.to_thread(ssl_of, certs, address)
            stop = asyncio.Event()

            async def call_on() -> int:
                answered = 0
                while not stop.is_set():
                    assert await ask_on(channel)
                    answered += 1
                return answered

            callers = [asyncio.create_task(call_on()) for _ in range(4)]
            issue(certs, "gateway", "client", names=("renewed",))
            await asyncio.sleep(LOOK_S * 1.5)
            assert await asyncio.to_thread(ssl_of, certs, address) != before
            await asyncio.sleep(LOOK_S * 0.5)
            stop.set()
            assert min(await asyncio.gather(*callers)) > 0


def ssl_of(certs: Path, address: str) -> bytes:
    """The certificate that a server shows, in DER."""
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=CALL_S) as connection,
        tls_of(certs, "client").context().wrap_socket(connection, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def test_a_blocking_channel_takes_new_files_for_new_calls(certs: Path) -> None:
    clock = [0.0]
    tls = tls_of(certs, "client")
    files = PemFiles(ca=tls.ca, cert=tls.cert, key=tls.key, clock=lambda: clock[0])
    made: list[bytes | None] = []

    def connect(pems: Any) -> grpc.Channel:
        made.append(pems.cert)
        return grpc.secure_channel("127.0.0.1:1", pems.channel_credentials)  # noqa: TID251  # never connected  # never connected

    with RenewedChannel(files, connect) as channel:
        first = channel.current()
        issue(certs, "client")
        assert channel.current() is first
        clock[0] += LOOK_S
        assert channel.current() is not first
    assert len(set(made)) == 2


def test_unusable_files_are_refused_and_those_before_stay_in_use(certs: Path) -> None:
    clock, reports = [0.0], list[str]()
    own = certs / "client"
    files = PemFiles(
        cert=f"{own}/tls.crt",
        key=f"{own}/tls.key",
        clock=lambda: clock[0],
        report=lambda pems, reason: reports.append(reason),
    )
    before = files.current()
    whole = (own / "tls.crt").read_bytes()
    for content in (whole[: len(whole) // 2], b"", (certs / "gateway" / "tls.crt").read_bytes()):
        (own / "tls.crt").write_bytes(content)
        clock[0] += LOOK_S
        assert files.current() is before
    (own / "tls.crt").unlink()
    clock[0] += LOOK_S
    assert files.current() is before
    issue(certs, "client")
    clock[0] += LOOK_S
    assert files.current() is not before
    assert [bool(reason) for reason in reports] == [False, True, True, True, True, False]


def test_a_process_does_not_start_with_a_key_of_another_certificate(certs: Path) -> None:
    with pytest.raises(BadSettings, match="KEY_VALUES_MISMATCH"):
        PemFiles(cert=f"{certs}/client/tls.crt", key=f"{certs}/gateway/tls.key")
    with pytest.raises(BadSettings, match="No such file"):
        PemFiles(cert=f"{certs}/nobody/tls.crt", key=f"{certs}/nobody/tls.key")


def test_metrics_tell_when_certificates_expire(certs: Path) -> None:
    security.server_files(EchoSettings(**settings_of(certs, "gateway")))
    expiry = REGISTRY.get_sample_value("lookalike_tls_certificate_expiry_timestamp_seconds", {"certificate": "own"})
    assert expiry is not None
    assert expiry - datetime.now(UTC).timestamp() == pytest.approx(86400, abs=600)


def test_the_metrics_page_is_shown_by_tls_to_those_that_show_a_certificate(certs: Path) -> None:
    (port,) = free_ports(1)
    files = security.server_files(EchoSettings(**settings_of(certs, "gateway")))
    metrics_page.expose_metrics("127.0.0.1", port, tls=security.metrics_tls(files))
    url = f"https://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=CALL_S, context=tls_of(certs, "client").context()) as page:
        assert b"lookalike_tls_readings_total" in page.read()
    with pytest.raises(OSError, match=r"certificate required|reset|EOF|closed"):
        urllib.request.urlopen(url, timeout=CALL_S, context=Tls(ca=f"{certs}/ca.crt").context())
    before = ssl_of(certs, f"127.0.0.1:{port}")
    issue(certs, "gateway")
    time.sleep(LOOK_S)
    assert ssl_of(certs, f"127.0.0.1:{port}") != before


def test_the_metrics_page_knows_its_readers_by_the_names_in_their_certificates(certs: Path) -> None:
    def only_clients(call: Call) -> None:
        if "client" not in call.identities:
            raise PermissionDenied("not you")

    (port,) = free_ports(1)
    files = security.server_files(EchoSettings(**settings_of(certs, "gateway")))
    metrics_page.expose_metrics("127.0.0.1", port, only_clients, security.metrics_tls(files))
    url = f"https://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=CALL_S, context=tls_of(certs, "client").context()) as page:
        assert page.status == 200
    with pytest.raises(OSError, match="403"):
        urllib.request.urlopen(url, timeout=CALL_S, context=tls_of(certs, "gateway").context())


async def test_the_health_service_alone_has_a_plain_port(certs: Path) -> None:
    (port,) = free_ports(1)
    health = HealthService()
    settings = EchoSettings(**settings_of(certs, "gateway"), health_port=port)
    probes = await lifecycle.serve_health_alone(health, settings)
    health.set("", SERVING)
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await call(b"", timeout=CALL_S) == b"\x08\x01"
        echo: Any = channel.unary_unary(UNARY)
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await echo(request(), timeout=CALL_S)
    await probes.stop(None)


@asynccontextmanager
async def tls_in_front_of(port: int, certs: Path, role: str) -> AsyncIterator[int]:
    """A port where TLS ends, and asks for a certificate: the redis-server here may be built without it."""
    context = security.metrics_tls(security.server_files(EchoSettings(**settings_of(certs, role))))
    assert context is not None

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, behind_writer), pipe(behind_reader, writer))

    front = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context())
    async with front:
        yield front.sockets[0].getsockname()[1]


async def test_the_cache_and_the_stream_are_reached_by_tls_with_the_certificates_of_the_process(
    certs: Path, tmp_path: Path
) -> None:
    issue(certs, "redis")
    with RedisServer(tmp_path) as redis:
        async with tls_in_front_of(redis.port, certs, "redis") as port:
            channels.use_tls(tls_of(certs, "client"))
            cache = RedisResultCache(f"rediss://127.0.0.1:{port}", ttl_s=60, timeout_s=CALL_S)
            cache.put("key", b"value")
            async with asyncio.timeout(CALL_S):
                while await cache.get("key") != b"value":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await cache.close()
            url = f"rediss://127.0.0.1:{port}"
            stream = await open_redis_stream(StreamSettings(url=url, timeout_s=CALL_S))
            await stream.close()
            channels.use_tls(None)
            own = f"?ssl_ca_certs={certs}/ca.crt&ssl_certfile={certs}/client/tls.crt&ssl_keyfile={certs}/client/tls.key"
            stream = await open_redis_stream(StreamSettings(url=url + own, timeout_s=CALL_S))
            await stream.close()
            with pytest.raises(Unavailable):
                await open_redis_stream(StreamSettings(url=url, timeout_s=CALL_S))
