"""Admin through real gRPC: of a real node with two releases, and of a gateway with shards that come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
import pytest

from lookalike.__main__ import COMMANDS
from lookalike.access.file_key_store import FileKeyStore
from lookalike.access.key import AccessKey, digest_of, new_key
from lookalike.channels import aio_channel
from lookalike.cli.dispatch import dispatch
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.records import read_record
from lookalike.v1.admin_pb2 import (
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
from lookalike.v1.admin_pb2_grpc import AdminStub
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_TEXT
from tests.edges import IMPLEMENTATIONS
from tests.rpc.gateways import ScriptedSystem, running_gateway, scripted_system
from tests.rpc.model_servers import until
from tests.rpc.test_audit_log import ends_of, lines_of, refusal, size_of
from tests.rpc.test_node import a_node, eventually
from tests.rpc.test_swap import COUNT, SHARDS, build_version
from tests.unit.index.test_write_ahead_log import limit_file_size


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """An index location, and its two releases; the later one serves."""
    location = tmp_path_factory.mktemp("releases")
    return location, build_version(location, "old"), build_version(location, "new")


@pytest.fixture
def location(releases: tuple[Path, str, str]) -> Path:
    """The later release serves, and nothing is on record."""
    path, _, new = releases
    version.make_current(path, new)
    Directory(path).set_canary(None)
    for record in (path / "releases").glob("*.json"):
        record.unlink()
    return path


@asynccontextmanager
async def admin_of(address: str) -> AsyncIterator[Any]:
    async with aio_channel(address) as channel:
        yield AdminStub(channel)


@asynccontextmanager
async def admin_of_a_system(**settings: Any) -> AsyncIterator[tuple[ScriptedSystem, Any]]:
    async with scripted_system(admin=True, **settings) as system:
        yield system, AdminStub(system.channel)


async def run(*words: str, environ: Mapping[str, str] = MappingProxyType({})) -> int:
    """The command's exit status. It calls and blocks, so it has a thread."""
    return await asyncio.to_thread(dispatch, "lookalike", COMMANDS, ["admin", *words], environ)


# What serves.


async def test_the_status_of_a_node_is_of_all_its_shards(location: Path, releases: tuple[Path, str, str]) -> None:
    async with a_node(location, admin=True) as node, admin_of(node.address) as admin:
        status = await admin.GetStatus(GetStatusRequest())
    assert (status.release, status.coverage, status.cache, status.draining) == (releases[2], 1.0, "none", False)
    assert [shard.shard for shard in status.shards[:SHARDS]] == [*range(SHARDS)]
    assert sum(shard.documents for shard in status.shards) == COUNT
    assert all((shard.serves, [*shard.releases]) == (True, [releases[2]]) for shard in status.shards[:SHARDS])


async def test_the_status_names_shards_and_replicas_by_number_and_says_which_are_out() -> None:
    async with admin_of_a_system(shard_hang_s=0.3) as (system, admin):
        system.shards[1].hang = True

        async def is_hung() -> bool:
            return [*(await admin.GetStatus(GetStatusRequest())).shards[1].replicas] == ["hung"]

        await eventually(is_hung)
        status = await admin.GetStatus(GetStatusRequest())
        assert [shard.serves for shard in status.shards] == [True, False]
        assert 0 < status.coverage < 1
        roles = {encoder.role: [*encoder.fingerprints] for encoder in status.encoders}
        assert roles["text encoder"] == [f"encoder-{SPACE_TEXT}"]
        assert "127.0.0.1" not in str(status)
        system.shards[1].hang = False


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)
async def test_a_release_is_cut_over_to_and_taken_back_and_both_are_on_record(
    location: Path, releases: tuple[Path, str, str]
) -> None:
    _, old, new = releases
    async with a_node(location, admin=True) as node, admin_of(node.address) as admin:
        listed = await admin.ListReleases(ListReleasesRequest())
        assert {each.name: (each.serves, each.products, each.shards) for each in listed.releases} == {
            old: (False, COUNT, SHARDS),
            new: (True, COUNT, SHARDS),
        }
        reply = await admin.CutOver(CutOverRequest(release=old, expected=new), metadata=[("x-request-id", "order-9")])
        assert (reply.release, reply.before) == (old, new)
        await until_release(admin, old)
        reply = await admin.RollBack(RollBackRequest())
        assert (reply.release, reply.before) == (new, old)
        await until_release(admin, new)
        listed = await admin.ListReleases(ListReleasesRequest())
        assert {each.name: each.rolled_back for each in listed.releases} == {old: True, new: False}
    record = read_record(Directory(location), old)
    assert record is not None
    assert [event.why.partition(",")[0] for event in record.events] == ["CutOver", "RollBack"]
    assert record.events[0].why.endswith("request order-9")


async def until_release(admin: Any, name: str) -> None:
    async def is_followed() -> bool:
        return bool((await admin.GetStatus(GetStatusRequest())).release == name)

    await eventually(is_followed)


@pytest.mark.parametrize(
    ("request_of", "code", "words"),
    [
        (lambda old, new: ("CutOver", CutOverRequest(release="0" * 16)), "NOT_FOUND", "there is no such release"),
        (lambda old, new: ("CutOver", CutOverRequest()), "INVALID_ARGUMENT", "release: is empty"),
        (
            lambda old, new: ("CutOver", CutOverRequest(release=old, expected=old)),
            "FAILED_PRECONDITION",
            "serves, and not",
        ),
        (lambda old, new: ("CutOver", CutOverRequest(release="../../etc")), "NOT_FOUND", "there is no such release"),
        (
            lambda old, new: ("RollBack", RollBackRequest()),
            "FAILED_PRECONDITION",
            "it is not recorded what served before",
        ),
        (
            lambda old, new: ("SetCanary", SetCanaryRequest(release=old, share=2)),
            "INVALID_ARGUMENT",
            "share: 2.0 is not",
        ),
        (
            lambda old, new: ("SetCanary", SetCanaryRequest(release=new, share=0.5)),
            "FAILED_PRECONDITION",
            "serves already",
        ),
    ],
)
async def test_what_cannot_be_done_changes_nothing_and_says_why_without_saying_where(
    location: Path, releases: tuple[Path, str, str], request_of: Callable[..., Any], code: str, words: str
) -> None:
    method, request = request_of(*releases[1:])
    async with scripted_system(admin=True, releases=str(location)) as system:
        status, message = await refusal(getattr(AdminStub(system.channel), method)(request))
    assert status.name == code
    assert words in message
    assert str(location) not in message
    assert Directory(location).current() == releases[2]


async def test_a_damaged_release_is_shown_as_such_and_never_served(
    location: Path, releases: tuple[Path, str, str]
) -> None:
    manifest = location / releases[1] / "manifest.json"
    whole = read(manifest)
    write(manifest, b"{}")
    try:
        async with admin_of_a_system(releases=str(location)) as (_, admin):
            listed = await admin.ListReleases(ListReleasesRequest())
            assert {each.name: each.damaged for each in listed.releases} == {releases[1]: True, releases[2]: False}
            status, message = await refusal(admin.CutOver(CutOverRequest(release=releases[1])))
    finally:
        write(manifest, whole)
    assert (status, message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "a file of the releases is missing or damaged",
    )


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def test_a_release_is_tried_on_a_share_of_searches_and_not_any_more(
    location: Path, releases: tuple[Path, str, str]
) -> None:
    async with admin_of_a_system(releases=str(location)) as (_, admin):
        await admin.SetCanary(SetCanaryRequest(release=releases[1], share=0.25))
        listed = await admin.ListReleases(ListReleasesRequest())
        assert {each.name: each.canary for each in listed.releases} == {releases[1]: 0.25, releases[2]: 0}
        await admin.SetCanary(SetCanaryRequest())
    assert Directory(location).canary() is None


async def test_a_gateway_that_is_not_told_where_the_releases_are_says_so() -> None:
    async with admin_of_a_system() as (_, admin):
        for call in (admin.ListReleases(ListReleasesRequest()), admin.CutOver(CutOverRequest(release="a"))):
            status, message = await refusal(call)
            assert status is grpc.StatusCode.FAILED_PRECONDITION
            assert "not told where the releases are" in message


# Cache and drain.


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_flush_forgets_cached_answers(kind: str, request: pytest.FixtureRequest) -> None:
    redis = request.getfixturevalue("redis_url") if kind == "redis" else ""
    async with admin_of_a_system(redis=redis, redis_prefix=f"test-{kind}") as (system, admin):
        search = SearchRequest(examples=[Example(text="p03")], space=SPACE_TEXT)

        async def is_cached() -> bool:
            return (await system.search.Search(search)).provenance.cached

        await eventually(is_cached)
        reply = await admin.FlushCache(FlushCacheRequest())
        assert (reply.removed, reply.complete) == (1, True)
        assert not (await system.search.Search(search)).provenance.cached


async def test_a_gateway_without_a_cache_has_nothing_to_flush() -> None:
    async with admin_of_a_system(cache_ttl_s=0.0) as (_, admin):
        assert (await admin.FlushCache(FlushCacheRequest())).complete


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)
async def test_a_drain_is_answered_and_begins_once() -> None:
    stops: list[None] = []
    async with scripted_system() as system:
        addresses = {"shards": system.shard_addresses}
        async with (
            running_gateway({**addresses, "admin": True, "drain_s": 3.0}, stop=lambda: stops.append(None)) as address,
            admin_of(address) as admin,
        ):
            assert (await admin.Drain(DrainRequest())).seconds == 3.0
            await admin.Drain(DrainRequest())
            await until(lambda: stops)
            assert (await admin.GetStatus(GetStatusRequest())).draining
    assert len(stops) == 1


# Keys.


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    return FileKeyStore(tmp_path / "keys.json")


@pytest.fixture
def operator(store: FileKeyStore) -> str:
    """The token of a key that may call Admin."""
    key, token = new_key("operator", frozenset({"admin"}), now_s=1)
    store.put(key)
    return token


def keys_in(store: FileKeyStore) -> list[AccessKey]:
    stored = store.read()
    return [each for each in stored.keys if each.name != "operator"] if stored else []


async def test_keys_are_made_listed_and_revoked_by_whoever_has_one_with_the_scope_admin(
    store: FileKeyStore, operator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit, environ = tmp_path / "audit.log", {"LOOKALIKE_API_KEY": operator}
    async with scripted_system(admin=True, keys=str(tmp_path / "keys.json"), audit_log=audit) as system:
        where = ("--address", system.address)
        created = ("create-key", "--name", "shop", "--scopes", "search,read", "--calls-per-s", "50")
        assert await run(*created, *where) == 1  # Without a key.
        assert await run(*created, *where, environ=environ) == 0
        token = capsys.readouterr().out.split()[0]
        (key,) = keys_in(store)
        assert (key.name, sorted(key.scopes), key.limits.calls_per_s) == ("shop", ["read", "search"], 50.0)
        assert key.digest == digest_of(token)
        assert await run("keys", *where, environ=environ) == 0
        assert capsys.readouterr().out.splitlines()[1] == f"{key.id}  shop  read,search  calls_per_s=50"
        assert await run("revoke-key", key.id, *where, environ=environ) == 0
        assert await run("revoke-key", key.id, *where, environ=environ) == 1
        assert await run("create-key", "--name", "a", "--scopes", "everything", *where, environ=environ) == 2
        assert "everything" in capsys.readouterr().err
    assert keys_in(store) == []
    shown = [(line["method"].partition("/")[2], line.get("id"), line["outcome"]) for line in ends_of(audit)]
    assert shown[:3] == [("CreateKey", key.id, "OK"), ("ListKeys", None, "OK"), ("RevokeKey", key.id, "OK")]
    assert {line["caller"] for line in lines_of(audit)} == {operator.split("_")[1]}
    assert token.rpartition("_")[2] not in json.dumps(lines_of(audit))


async def test_a_store_of_keys_that_is_damaged_is_unavailable_without_its_place(
    store: FileKeyStore, operator: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    async with admin_of_a_system(keys=str(path)) as (_, admin):
        write(path, b"{")
        metadata = [("authorization", f"Bearer {operator}")]
        for call in (
            admin.ListKeys(ListKeysRequest(), metadata=metadata),
            admin.RevokeKey(RevokeKeyRequest(id="a"), metadata=metadata),
        ):
            assert await refusal(call) == (
                grpc.StatusCode.UNAVAILABLE,
                "the store of API keys cannot be read or written",
            )


async def test_a_gateway_that_asks_for_no_keys_has_none_to_list() -> None:
    async with admin_of_a_system() as (_, admin):
        assert (await refusal(admin.ListKeys(ListKeysRequest())))[0] is grpc.StatusCode.FAILED_PRECONDITION


# Who may, and what is written down.


async def test_admin_is_not_answered_unless_it_is_switched_on() -> None:
    async with scripted_system() as system:
        admin: Any = AdminStub(system.channel)
        for call in (admin.GetStatus(GetStatusRequest()), admin.Drain(DrainRequest())):
            assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_every_call_is_in_the_audit_log(location: Path, releases: tuple[Path, str, str], tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    async with admin_of_a_system(releases=str(location), audit_log=path) as (_, admin):
        await admin.GetStatus(GetStatusRequest())
        await admin.CutOver(CutOverRequest(release=releases[1]))
        await refusal(admin.CutOver(CutOverRequest(release="x" * 1000)))
        await admin.SetCanary(SetCanaryRequest(release=releases[2], share=0.5))
        await admin.FlushCache(FlushCacheRequest())
    shown = [(line["method"].partition("/")[2], line["outcome"], line.get("release")) for line in ends_of(path)]
    assert shown == [
        ("GetStatus", "OK", None),
        ("CutOver", "OK", releases[1]),
        ("CutOver", "NOT_FOUND", "x" * 256),
        ("SetCanary", "OK", releases[2]),
        ("FlushCache", "OK", None),
    ]
    assert ends_of(path)[1]["before"] == releases[2]
    assert [line["stage"] for line in lines_of(path)[:3]] == ["end", "begin", "end"]  # A status is only read.


async def test_where_the_log_cannot_be_written_nothing_is_changed_and_the_status_is_told(
    location: Path, releases: tuple[Path, str, str], tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    async with admin_of_a_system(releases=str(location), audit_log=path) as (_, admin):
        with limit_file_size(size_of(path) + 10):
            status, _ = await refusal(admin.CutOver(CutOverRequest(release=releases[1])))
            await admin.GetStatus(GetStatusRequest())
    assert status is grpc.StatusCode.UNAVAILABLE
    assert Directory(location).current() == releases[2]


# The commands.


async def test_the_commands_show_and_change_what_a_node_serves(
    location: Path, releases: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, old, new = releases
    async with a_node(location, admin=True, cache_ttl_s=60.0) as node:
        where = ("--address", node.address)
        assert await run("status", *where) == 0
        assert f"release {new}  coverage 1.000  cache memory" in capsys.readouterr().out
        assert await run("cut-over", old, *where) == 0
        assert capsys.readouterr().out == f"release {old} serves; before, it was {new}\n"
        assert await run("status", "--json", *where) == 0  # Requests are answered from it by now.
        assert json.loads(capsys.readouterr().out)["release"] == old
        assert await run("rollback", "--expected", new, *where) == 1
        assert f"version {old} serves, and not {new}" in capsys.readouterr().err
        assert await run("rollback", *where) == 0
        assert capsys.readouterr().out == f"release {new} serves; before, it was {old}\n"
        assert await run("releases", *where) == 0
        assert "rolled back" in capsys.readouterr().out
        assert await run("canary", old, "--share", "0.1", *where) == 0
        assert capsys.readouterr().out == f"release {old} answers 0.1 of searches\n"
        assert await run("canary", "--off", *where) == 0
        assert await run("flush-cache", "--json", *where) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"removed": 0}


async def test_a_command_for_a_gateway_that_does_not_answer_admin_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted_system() as system:
        assert await run("status", "--address", system.address) == 1
    assert "error: Admin is not answered here (its setting `admin`)" in capsys.readouterr().err
