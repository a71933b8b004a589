"""Photos over http: every way in which a server can misbehave has a cause of its own, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from lookalike.limits import MAX_IMAGE_BYTES
from pipeline.fetching.addresses import parse_networks
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.photo import NOT_MODIFIED, FetchedPhoto, Validators
from pipeline.fetching.web import MAX_REDIRECTS, WebPhotos

PHOTO = b"\xff\xd8\xff photo"


class Shop:
    """A web server of photos."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.sent_bytes = 0
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911  # One per way to answer.
        self.requests.append(request)
        match request.path:
            case "/photo.jpg":
                etag = '"1"'
                if request.headers.get("If-None-Match") == etag:
                    return web.Response(status=304)
                return web.Response(body=PHOTO, content_type="image/jpeg", headers={"ETag": etag})
            case "/endless" | "/drip":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    piece = bytes(1 << 16) if request.path == "/endless" else b"."
                    await response.write(piece)
                    self.sent_bytes += len(piece)
                    await asyncio.sleep(0 if request.path == "/endless" else 0.02)
            case "/large":
                response = web.StreamResponse(headers={"Content-Length": str(1 << 30)})
                await response.prepare(request)
                await asyncio.sleep(60)
            case "/short":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"half")
                assert request.transport is not None
                request.transport.abort()
                return response
            case "/hang":
                await asyncio.sleep(60)
            case "/page":
                return web.Response(text="<html>", content_type="text/html")
            case "/gzip":
                return web.Response(body=PHOTO, headers={"Content-Encoding": "gzip"}, content_type="image/jpeg")
            case "/empty":
                return web.Response(body=b"", content_type="image/jpeg")
            case "/busy":
                return web.Response(status=429, headers={"Retry-After": "7"})
            case "/moved":
                return web.Response(status=302, headers={"Location": request.query["to"]})
            case "/loop":
                return web.Response(status=302, headers={"Location": "/loop"})
        return web.Response(status=int(request.path[1:]))


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", shop.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    shop.port = runner.addresses[0][1]
    yield shop
    await runner.cleanup()


@pytest.fixture
async def photos() -> AsyncIterator[WebPhotos]:
    photos = WebPhotos(
        timeout_s=0.5, max_in_flight=4, per_host=4, allow_networks=parse_networks("127.0.0.1/32, ::1/128")
    )
    yield photos
    await photos.close()


async def failure(photos: WebPhotos, url: str) -> FetchError:
    with pytest.raises(FetchError) as error:
        await photos.fetch(url)
    return error.value


async def test_a_photo_is_fetched_with_what_tells_later_whether_it_changed(shop: Shop, photos: WebPhotos) -> None:
    fetched = await photos.fetch(shop.url("/photo.jpg"))
    assert fetched == FetchedPhoto(PHOTO, Validators(etag='"1"', size=len(PHOTO)))
    assert isinstance(fetched, FetchedPhoto)
    assert await photos.fetch(shop.url("/photo.jpg"), fetched.validators) is NOT_MODIFIED
    changed = await photos.fetch(shop.url("/photo.jpg"), Validators(etag='"0"'))
    assert changed == fetched


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/404", FetchCause.NOT_FOUND),
        ("/410", FetchCause.NOT_FOUND),
        ("/403", FetchCause.FORBIDDEN),
        ("/500", FetchCause.SERVER_ERROR),
        ("/hang", FetchCause.TIMED_OUT),
        ("/drip", FetchCause.TIMED_OUT),
        ("/endless", FetchCause.TOO_LARGE),
        ("/large", FetchCause.TOO_LARGE),
        ("/short", FetchCause.CHANGED),
        ("/page", FetchCause.NOT_A_PHOTO),
        ("/gzip", FetchCause.NOT_A_PHOTO),
        ("/empty", FetchCause.NOT_A_PHOTO),
        ("/loop", FetchCause.TOO_MANY_REDIRECTS),
        ("/moved?to=file:///etc/passwd", FetchCause.BAD_ADDRESS),
        ("/moved?to=http://169.254.169.254/", FetchCause.BLOCKED),
        ("/moved?to=http://127.0.0.2/", FetchCause.BLOCKED),
        ("/moved?to=//[::ffff:10.0.0.1]/", FetchCause.BLOCKED),
    ],
)
async def test_what_is_no_photo_is_told_by_its_cause(
    shop: Shop, photos: WebPhotos, path: str, cause: FetchCause
) -> None:
    assert (await failure(photos, shop.url(path))).cause is cause


async def test_of_a_body_without_an_end_no_more_than_the_bound_is_read(shop: Shop, photos: WebPhotos) -> None:
    await failure(photos, shop.url("/endless"))
    sent = shop.sent_bytes
    await asyncio.sleep(0.1)
    assert shop.sent_bytes - sent < MAX_IMAGE_BYTES  # The connection is closed, and not read on.


async def test_redirects_are_followed_up_to_a_bound(shop: Shop, photos: WebPhotos) -> None:
    assert isinstance(await photos.fetch(shop.url("/moved?to=/photo.jpg")), FetchedPhoto)
    await failure(photos, shop.url("/loop"))
    assert sum(request.path == "/loop" for request in shop.requests) == MAX_REDIRECTS + 1


async def test_a_host_that_asks_for_patience_is_left_alone(shop: Shop, photos: WebPhotos) -> None:
    error = await failure(photos, shop.url("/busy"))
    assert (error.cause, error.retry_after_s) == (FetchCause.BUSY, 7)
    again = await failure(photos, shop.url("/photo.jpg"))
    assert again.cause is FetchCause.BUSY
    assert 0 < again.retry_after_s <= 7
    assert len(shop.requests) == 1


async def test_a_name_is_judged_by_the_address_that_is_connected_to(shop: Shop, photos: WebPhotos) -> None:
    assert isinstance(await photos.fetch(shop.url("/photo.jpg", "localhost")), FetchedPhoto)
    strict = WebPhotos(timeout_s=0.5, max_in_flight=4, per_host=4)
    try:
        for host in ("localhost", "127.0.0.1"):
            assert (await failure(strict, shop.url("/photo.jpg", host))).cause is FetchCause.BLOCKED
    finally:
        await strict.close()
    assert len(shop.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://shop.example/a.jpg",
        "http:///a.jpg",
        "http://127.1/a.jpg",
        "http://shop:99999/",
        "http://a:b@shop.example/",
    ],
)
async def test_what_is_no_url_of_a_photo_is_refused(photos: WebPhotos, url: str) -> None:
    assert (await failure(photos, url)).cause is FetchCause.BAD_ADDRESS


async def test_a_server_that_is_not_there_is_unreachable_and_an_unknown_name_not_found(photos: WebPhotos) -> None:
    assert (await failure(photos, "http://127.0.0.1:1/a.jpg")).cause is FetchCause.UNREACHABLE
    assert (await failure(photos, "http://no-such-name.invalid/a.jpg")).cause is not FetchCause.BLOCKED


async def test_messages_have_neither_the_query_of_a_url_nor_its_name_and_password(
    shop: Shop, photos: WebPhotos
) -> None:
    for url in (shop.url("/404?signature=secret"), "http://name:secret@shop.example/a.jpg"):
        assert "secret" not in str(await failure(photos, url))
