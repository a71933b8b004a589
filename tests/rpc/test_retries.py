"""What clients retry by the service config, in Python and Node, against real servers that fail the first attempts."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from lookalike.channels import client_target
from lookalike.client import AsyncClient, Client, RetryPolicy, remove_change
from lookalike.errors import InternalError, LookalikeError, Overloaded, Unavailable
from lookalike.retries import service_config
from lookalike.v1.types_pb2 import Product
from tests.edges import IMPLEMENTATIONS
from tests.rpc.failing_gateways import SERVICES, failing_gateway

QUICK = RetryPolicy(first_pause_s=0.05, max_pause_s=0.05)
ROOT = Path(__file__).parents[2]
CONFIG = json.loads(resources.files("lookalike").joinpath("service_config.json").read_text())

Call = Callable[[AsyncClient], Awaitable[Any]]

RETRIED: dict[str, Call] = {
    "Search": lambda client: client.search(product_id="a"),
    "BatchSearch": lambda client: client.batch_search([{"product_id": "a"}]),
    "FindDuplicates": lambda client: client.find_duplicates(product_id="a"),
    "Classify": lambda client: client.classify(text="a"),
    "Get": lambda client: client.get("a"),
    "Exists": lambda client: client.exists(["a"]),
    "Count": lambda client: client.count(),
    "List": lambda client: listed(client.list()),
    "Upsert": lambda client: client.upsert(Product(id="a"), revision=1, allow_unfindable=True),
    "Patch": lambda client: client.patch("a", revision=1, price=2.0),
    "Remove": lambda client: client.remove("a", revision=1),
    "BatchWrite": lambda client: client.batch_write([remove_change("a", revision=1)]),
    "RemoveWhere": lambda client: client.remove_where(revision=1, shop_in=["a"]),
    "Enqueue": lambda client: client.enqueue([remove_change("a", revision=1)]),
    "Wait": lambda client: client.wait(["a"], wait_s=0.0),
}
NOT_RETRIED: dict[str, Call] = {
    "SearchStream": lambda client: listed(client.search_stream([{"product_id": "a"}])),
    "Write": lambda client: listed(client.write([remove_change("a", revision=1)])),
}


async def listed(stream: AsyncIterator[object]) -> list[object]:
    return [each async for each in stream]


def test_every_method_is_one_or_the_other_and_the_file_has_those_that_are_retried() -> None:
    methods = {(each.full_name, name) for each in SERVICES for name in each.methods_by_name}
    assert {name for _, name in methods} == {*RETRIED, *NOT_RETRIED}
    (config,) = CONFIG["methodConfig"]
    named = {(each["service"], each["method"]) for each in config["name"]}
    assert named == {(service, name) for service, name in methods if name in RETRIED}


def test_the_defaults_of_python_are_those_of_the_file() -> None:
    assert json.loads(service_config(RetryPolicy())) == CONFIG


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
async def test_a_method_that_may_be_retried_is_answered_after_two_failures(implementation: str) -> None:
    async with failing_gateway(implementation) as gateway:
        for name, call in RETRIED.items():
            async with AsyncClient(gateway.address, retry=QUICK) as client:  # Of its own: failures add up.
                await call(client)
            assert gateway.calls[name] == 3, name


@pytest.mark.parametrize("name", NOT_RETRIED)
async def test_a_stream_of_requests_is_not_retried(name: str) -> None:
    async with failing_gateway("grpcio") as gateway, AsyncClient(gateway.address, retry=QUICK) as client:
        with pytest.raises(Unavailable):
            await NOT_RETRIED[name](client)
        assert gateway.calls[name] == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
async def test_a_photo_is_retried_like_a_word(implementation: str) -> None:
    async with failing_gateway(implementation) as gateway, AsyncClient(gateway.address, retry=QUICK) as client:
        await client.search(image=bytes(8 << 20))
        assert gateway.calls["Search"] == 3


@pytest.mark.parametrize("error", [Overloaded("full"), InternalError("a bug")])
async def test_what_a_retry_would_make_worse_or_cannot_mend_is_not_retried(error: LookalikeError) -> None:
    async with failing_gateway("grpcio", error=error) as gateway, AsyncClient(gateway.address, retry=QUICK) as client:
        with pytest.raises(type(error)):
            await client.search(product_id="a")
        assert gateway.calls["Search"] == 1


async def test_a_client_may_be_told_never_to_retry_or_how_often() -> None:
    async with failing_gateway("grpcio", failures=99) as gateway:
        for retry, calls in ((None, 1), (RetryPolicy(max_attempts=2), 2), (QUICK, 4)):
            gateway.calls.clear()
            async with AsyncClient(gateway.address, retry=retry) as client:
                with pytest.raises(Unavailable):
                    await client.search(product_id="a")
            assert gateway.calls["Search"] == calls


async def test_while_most_calls_fail_none_is_retried() -> None:
    async with failing_gateway("grpcio", failures=999) as gateway:
        async with AsyncClient(gateway.address, retry=QUICK) as client:
            for _ in range(20):
                with pytest.raises(Unavailable):
                    await client.search(product_id="a")
        assert gateway.calls["Search"] < 20 + 10


async def test_a_blocking_client_retries_too_and_several_gateways_are_called_by_turns() -> None:
    async with failing_gateway("auto", failures=1) as first, failing_gateway("auto", failures=1) as second:

        def search() -> None:
            with Client([first.address, second.address], retry=QUICK) as client:
                for _ in range(20):
                    client.search(product_id="a")

        await asyncio.to_thread(search)
        assert min(first.calls["Search"], second.calls["Search"]) > 1


async def test_a_gateway_of_several_that_is_away_costs_no_call() -> None:
    async with (
        failing_gateway("auto", failures=0) as there,
        AsyncClient(f"127.0.0.1:1,{there.address}", retry=QUICK) as client,
    ):
        for _ in range(10):
            await client.search(product_id="a")


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("gateway:50051", "gateway:50051"),
        ("dns:///gateway:50051", "dns:///gateway:50051"),
        (["10.0.0.1:1"], "10.0.0.1:1"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::2]:1", "ipv6:[::1]:1,[::2]:1"),
    ],
)
def test_addresses_become_what_grpc_takes(addresses: str | list[str], target: str) -> None:
    assert client_target(addresses)[0] == target


@pytest.mark.parametrize("addresses", ["a:1,b:2", "10.0.0.1:1,[::1]:1", "10.0.0.1:1,"])
def test_several_addresses_that_grpc_cannot_take_are_refused(addresses: str) -> None:
    with pytest.raises(ValueError, match="address"):
        client_target(addresses)


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 1}, {"max_attempts": 6}, {"first_pause_s": 2.0}, {"first_pause_s": 0.001}]
)
def test_a_policy_that_grpc_would_not_follow_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not in"):
        RetryPolicy(**wrong)


NODE = """
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const includeDirs = [process.argv[2] + "/protos"];
const definition = loader.loadSync("lookalike/v1/search.proto", { includeDirs, keepCase: true });
const { SimilarProducts } = grpc.loadPackageDefinition(definition).lookalike.v1;
const options = { "grpc.service_config": readFileSync(process.argv[2] + "/lookalike/service_config.json", "utf8") };
for (const each of [options, { ...options, "grpc.enable_retries": 0 }]) {
  const client = new SimilarProducts(process.argv[3], grpc.credentials.createInsecure(), each);
  await new Promise((resolve) =>
    client.Search({ examples: [{ product_id: "a" }] }, { deadline: Date.now() + 10000 }, (error) => {
      console.log(error ? grpc.status[error.code] : "OK");
      resolve();
    }));
  client.close();
}
"""


async def test_the_same_file_makes_a_node_client_retry(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (Node.js brings it)")
    install = "npm install --no-save --silent --no-audit --no-fund @grpc/grpc-js @grpc/proto-loader"
    assert (await run(install, tmp_path))[0] == 0
    (tmp_path / "search.mjs").write_text(NODE)
    async with failing_gateway("auto", failures=2) as gateway:
        code, lines = await run(f"node search.mjs {ROOT} {gateway.address}", tmp_path)
        assert (code, lines, gateway.calls["Search"]) == (0, ["OK", "OK"], 4)
        gateway.calls.clear()
        gateway.failures = 99
        code, lines = await run(f"node search.mjs {ROOT} {gateway.address}", tmp_path)
        assert (code, lines, gateway.calls["Search"]) == (0, ["UNAVAILABLE", "UNAVAILABLE"], 4 + 1)


async def run(command: str, folder: Path) -> tuple[int | None, list[str]]:
    process = await asyncio.create_subprocess_shell(command, cwd=folder, stdin=DEVNULL, stdout=PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 300)
    return process.returncode, output.decode().splitlines()
