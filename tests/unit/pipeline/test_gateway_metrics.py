"""Reading the metrics pages of gateways over HTTP."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pipeline.gateway_metrics import read_pages
from tests.unit.pipeline.gateway_pages import GatewayPage, serving_page

TIMEOUT_S = 10.0


async def test_a_name_with_several_addresses_is_read_at_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = GatewayPage("v1"), GatewayPage("v2")

    resolve_host = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **options: Any) -> list[Any]:
        addresses = ("127.0.0.2", "127.0.0.1", "127.0.0.2") if host == "gateway" else (host,)
        return [found for address in addresses for found in resolve_host(address, *rest, **options)]

    with serving_page(first.text) as (port, hosts), serving_page(second.text, "127.0.0.2", port):
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        reading = await read_pages([f"http://gateway:{port}/metrics"], TIMEOUT_S)
    versions = {address: page.labels_of("lookalike_release") for address, page in reading.pages.items()}
    assert versions == {
        f"http://127.0.0.1:{port}/metrics": [{"version": "v1"}],
        f"http://127.0.0.2:{port}/metrics": [{"version": "v2"}],
    }
    assert hosts == [f"gateway:{port}"]
    assert not reading.failures


async def test_what_does_not_answer_does_not_resolve_or_is_no_page_is_a_failure_with_its_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/metrics"
        with (
            serving_page(lambda: "<html>not found</html>") as (other, _),
            serving_page(GatewayPage().text) as (port, _),
        ):
            good, lost = f"http://127.0.0.1:{port}/metrics", f"http://127.0.0.1:{port}/elsewhere"
            nowhere, html = "http://no-such-host.invalid:9090/metrics", f"http://127.0.0.1:{other}/metrics"
            reading = await read_pages([good, closed, nowhere, html, lost], TIMEOUT_S)
    assert [*reading.pages] == [good]
    assert reading.failures.keys() == {closed, nowhere, html, lost}
    assert "does not resolve" in reading.failures[nowhere]
    assert "404" in reading.failures[lost]
    assert all(reading.failures.values())
