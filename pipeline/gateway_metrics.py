"""Reads the metrics pages of gateways. Network I/O."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from lookalike import channels
from lookalike.credentials import ApiKey, authorization
from lookalike.errors import BadSettings
from lookalike.strict_json import parse_json
from pipeline.metrics_page import Page

_MAX_PAGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Reading:
    """The pages of all gateways, at about one moment, by their addresses: http://10.0.0.7:9090/metrics."""

    pages: Mapping[str, Page]
    texts: Mapping[str, str]  # Of the pages, as they were read.
    failures: Mapping[str, str] = field(default_factory=dict)  # Addresses that did not answer, and why.

    @classmethod
    def of(cls, texts: Mapping[str, str], failures: Mapping[str, str] | None = None) -> Reading:
        return cls({address: Page.parse(text) for address, text in texts.items()}, texts, failures or {})

    def dump(self) -> str:
        return json.dumps({"texts": dict(self.texts), "failures": dict(self.failures)})

    @classmethod
    def load(cls, text: str) -> Reading:
        """The inverse of `dump`."""
        body = parse_json(text)
        return cls.of(body["texts"], body["failures"])


def check_url(url: str) -> None:
    """Raises BadSettings for what is no address of a metrics page."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise BadSettings(f"--metrics {url}: not http://HOST:PORT/metrics, or https://")


async def read_pages(urls: Sequence[str], timeout_s: float, api_key: ApiKey | None = None) -> Reading:
    """Read the pages of all gateways; a name that resolves to several addresses stands for all of them."""
    found = await asyncio.gather(*(asyncio.to_thread(_resolve, url) for url in urls))
    addresses = dict(zip(urls, found, strict=True))
    failures = {url: each for url, each in addresses.items() if isinstance(each, str)}
    wanted = {address: url for url, each in addresses.items() if not isinstance(each, str) for address in each}
    key = authorization(api_key)() or ()
    answers = await asyncio.gather(
        *(asyncio.to_thread(_read, address, urlsplit(url).netloc, key, timeout_s) for address, url in wanted.items())
    )
    texts = {}
    for address, (text, failure) in zip(wanted, answers, strict=True):
        if failure:
            failures[address] = failure
        else:
            texts[address] = text
    return Reading.of(texts, failures)


def _resolve(url: str) -> list[str] | str:
    """The same URL with each of its host's addresses, or why there is none."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{parts.hostname} does not resolve: {error}"
    hosts = sorted({str(address[0]) for *_, address in found})
    # A server that listens on 127.0.0.1 alone is not at the other address of localhost.
    if parts.hostname == "localhost" and "127.0.0.1" in hosts:
        hosts = ["127.0.0.1"]
    netlocs = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
    return [urlunsplit((parts.scheme, netloc, parts.path or "/metrics", parts.query, "")) for netloc in netlocs]


def _read(address: str, host: str, key: Sequence[tuple[str, str]], timeout_s: float) -> tuple[str, str]:
    """The page, or else why there is none."""
    request = urllib.request.Request(address, headers={"Host": host})  # noqa: S310  # `check_url` was called.
    tls = channels.process_tls()
    for name, value in key:
        request.add_unredirected_header(name, value)
    try:
        # The address is one that the host was resolved to: the certificate is of the host.
        context = tls.context(urlsplit(f"//{host}").hostname or "") if tls and address.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as reply:  # noqa: S310
            text = str(reply.read(_MAX_PAGE_BYTES).decode())
        Page.parse(text)
        return text, ""
    except urllib.error.HTTPError as error:
        with error:  # It is the answer, too, and keeps its connection.
            return "", str(error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return "", str(error) or type(error).__name__
