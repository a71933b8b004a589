"""Fetches photos over http(s): bounded in size, time and redirects, from public addresses only. Does network I/O."""

from __future__ import annotations

import asyncio
import email.utils
import socket
from collections.abc import Sequence
from typing import Final

import aiohttp
from yarl import URL

from lookalike.limits import MAX_IMAGE_BYTES
from lookalike.printable import quote
from lookalike.timestamps import unix_time_s
from pipeline.fetching.addresses import JudgingResolver, Network, check_literal
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.hosts import HostLimits
from pipeline.fetching.photo import NOT_MODIFIED, FetchedPhoto, NotModified, Validators

MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PIECE_BYTES: Final = 64 << 10
_BUSY_S: Final = 5.0  # The pause after a 429 or 503 that states none.
# A picture may come without a type, or as one of bytes; a page or a document about the picture is none.
_NO_PHOTO_TYPES: Final = ("text/", "application/json", "application/xml", "application/xhtml", "video/", "audio/")
_HEADERS: Final = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "lookalike-worker"}


class WebPhotos:
    """Fetches photos from web servers; for use on one event loop. Close it after use.

    timeout_s:      for one request, however slowly its answer comes.
    max_in_flight:  requests at a time; others wait.
    per_host:       of them, those to one host.
    allow_networks: networks that are not public and may be fetched from all the same.
    """

    def __init__(
        self, *, timeout_s: float, max_in_flight: int, per_host: int, allow_networks: Sequence[Network] = ()
    ) -> None:
        self._timeout_s = timeout_s
        self._allowed = allow_networks
        self._hosts = HostLimits(max_in_flight, per_host)
        # No proxy of the environment (trust_env), no cookies from one photo to the next. A connection is kept for a few
        # seconds: photos of one shop come together.
        connector = aiohttp.TCPConnector(
            resolver=JudgingResolver(allow_networks), limit=0, limit_per_host=per_host, ttl_dns_cache=10
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(5.0, timeout_s)),
        )

    async def fetch(self, url: str, known: Validators | None = None) -> FetchedPhoto | NotModified:
        """Fetch a photo, unless it is as it was when its validators were seen. Raises FetchError."""
        parsed = _parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            host = str(parsed.host)
            check_literal(host, self._allowed)
            async with self._hosts.permit(host):
                try:
                    async with asyncio.timeout(self._timeout_s):
                        outcome = await self._get(parsed, known)
                except TimeoutError:
                    detail = f"{_plain(parsed)} took more than {self._timeout_s:g} s"
                    raise FetchError(FetchCause.TIMED_OUT, detail) from None
            if not isinstance(outcome, URL):
                return outcome
            parsed = outcome
        raise FetchError(FetchCause.TOO_MANY_REDIRECTS, f"{_plain(url)} redirects more than {MAX_REDIRECTS} times")

    async def close(self) -> None:
        await self._session.close()

    async def _get(self, url: URL, known: Validators | None) -> FetchedPhoto | NotModified | URL:
        """One request: the photo, or where it has moved to."""
        try:
            async with self._session.get(url, headers=_conditions(known), allow_redirects=False) as response:
                if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                    return _parse(location, base=url)
                if response.status == 304 and known is not None:
                    return NOT_MODIFIED
                self._check_status(response, url)
                _check_headers(response, url)
                data = await _read(response, url)
                headers = response.headers
                validators = Validators(
                    etag=headers.get("ETag", ""), modified=headers.get("Last-Modified", ""), size=len(data)
                )
                return FetchedPhoto(data, validators)
        except aiohttp.ClientPayloadError:
            raise FetchError(FetchCause.CHANGED, f"{_plain(url)} ended before its stated length") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise FetchError(FetchCause.BAD_ADDRESS, f"{_plain(url)} is no URL of a photo") from None
        except aiohttp.ClientConnectorDNSError as error:
            raise _dns_error(error, url) from None
        except (aiohttp.ClientError, OSError) as error:
            detail = getattr(error, "strerror", None) or type(error).__name__
            raise FetchError(FetchCause.UNREACHABLE, f"{_plain(url)}: {detail}") from None

    def _check_status(self, response: aiohttp.ClientResponse, url: URL) -> None:
        status, what = response.status, f"{_plain(url)} answered {response.status}"
        if status == 200:
            return
        if status in (429, 503):
            pause_s = _retry_after_s(response.headers.get("Retry-After", "")) or _BUSY_S
            self._hosts.pause(str(url.host), pause_s)
            raise FetchError(FetchCause.BUSY, what, retry_after_s=pause_s)
        if status in (401, 403, 407, 451):
            raise FetchError(FetchCause.FORBIDDEN, what)
        if status in (408, 425) or status >= 500:
            raise FetchError(FetchCause.SERVER_ERROR, what)
        raise FetchError(FetchCause.NOT_FOUND, what)


def _parse(text: str, base: URL | None = None) -> URL:
    try:
        url = URL(text) if base is None else base.join(URL(text))
        port = url.port  # Raises for one that is none.
    except ValueError:
        raise FetchError(FetchCause.BAD_ADDRESS, f"{quote(text)} is no URL") from None
    if url.scheme not in ("http", "https") or not url.host or not port:
        raise FetchError(FetchCause.BAD_ADDRESS, f"{_plain(text)} is no http(s) URL")
    if url.user is not None or url.password is not None:
        raise FetchError(FetchCause.BAD_ADDRESS, f"a URL of {quote(url.host)} holds a name or password")
    return url


def _conditions(known: Validators | None) -> dict[str, str]:
    if known is None:
        return {}
    conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.modified}
    return {name: value for name, value in conditions.items() if value}


def _check_headers(response: aiohttp.ClientResponse, url: URL) -> None:
    kind = response.headers.get("Content-Type", "").strip().lower()
    if kind.startswith(_NO_PHOTO_TYPES):
        raise FetchError(FetchCause.NOT_A_PHOTO, f"{_plain(url)} is of the type {quote(kind)}")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise FetchError(FetchCause.NOT_A_PHOTO, f"{_plain(url)} is compressed, which was not asked for")
    if (length := response.content_length) is not None and length > MAX_IMAGE_BYTES:
        raise FetchError(
            FetchCause.TOO_LARGE, f"{_plain(url)} has {length:,} bytes, at most {MAX_IMAGE_BYTES:,} are allowed"
        )


async def _read(response: aiohttp.ClientResponse, url: URL) -> bytes:
    """The body, of which no more than the bound is ever held."""
    data = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        data += piece
        if len(data) > MAX_IMAGE_BYTES:
            response.close()  # Or aiohttp would read on, for the connection to be used again.
            raise FetchError(FetchCause.TOO_LARGE, f"{_plain(url)} has more than {MAX_IMAGE_BYTES:,} bytes")
    if not data:
        raise FetchError(FetchCause.NOT_A_PHOTO, f"{_plain(url)} is empty")
    return bytes(data)


def _retry_after_s(header: str) -> float:
    """Seconds of a Retry-After header, which states them or a date (RFC 9110, 10.2.3); 0: it states neither."""
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - unix_time_s(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _dns_error(error: aiohttp.ClientConnectorDNSError, url: URL) -> FetchError:
    unknown = isinstance(error.os_error, socket.gaierror) and error.os_error.errno == socket.EAI_NONAME
    return FetchError(
        FetchCause.NOT_FOUND if unknown else FetchCause.UNREACHABLE, f"the name {quote(url.host)} is not resolved"
    )


def _plain(url: URL | str) -> str:
    """A URL for messages, without its query, which may hold a signature."""
    try:
        plain = URL(url) if isinstance(url, str) else url
        return quote(str(plain.with_user(None).with_query(None).with_fragment(None)))
    except ValueError:
        return quote(str(url).partition("?")[0])
