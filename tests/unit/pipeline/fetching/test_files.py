"""Photos from a directory and from object stores keep the bounds of those from the web."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import fsspec
import pytest

from lookalike.limits import MAX_IMAGE_BYTES
from pipeline.fetching import files
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.fetcher import FetchSettings, PhotoFetcher
from pipeline.fetching.files import DirectoryPhotos, StoredPhotos
from pipeline.fetching.photo import NOT_MODIFIED, FetchedPhoto

PHOTO = b"\xff\xd8\xff photo"


async def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    photos = DirectoryPhotos(tmp_path, timeout_s=5)
    first = await photos.fetch("a.jpg")
    assert isinstance(first, FetchedPhoto)
    assert first.data == PHOTO
    assert await photos.fetch("a.jpg", first.validators) is NOT_MODIFIED
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    assert isinstance(await photos.fetch("a.jpg", first.validators), FetchedPhoto)


async def test_what_is_no_photo_is_told_by_its_cause(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    (root / "empty").touch()
    os.mkfifo(root / "pipe")
    with (root / "large").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    photos = DirectoryPhotos(root, timeout_s=5)
    expected = {
        "none.jpg": FetchCause.NOT_FOUND,
        "../secret": FetchCause.BLOCKED,
        "link": FetchCause.BLOCKED,
        "/etc/passwd": FetchCause.BLOCKED,
        "loop": FetchCause.BAD_ADDRESS,
        "a" * 300: FetchCause.BAD_ADDRESS,
        "nul\0": FetchCause.BAD_ADDRESS,
        "empty": FetchCause.NOT_A_PHOTO,
        "pipe": FetchCause.NOT_A_PHOTO,
        "large": FetchCause.TOO_LARGE,
    }
    causes = {}
    for path in expected:
        with pytest.raises(FetchError) as error:
            await photos.fetch(path)
        causes[path] = error.value.cause
    assert causes == expected


async def test_a_file_that_is_written_while_it_is_read_is_read_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PHOTO)
    check_size = files._check_size

    def write_meanwhile(size_bytes: int, name: str) -> None:
        check_size(size_bytes, name)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(files, "_check_size", write_meanwhile)
    with pytest.raises(FetchError) as error:
        await DirectoryPhotos(tmp_path, timeout_s=5).fetch("a.jpg")
    assert error.value.cause is FetchCause.CHANGED
    assert error.value.cause.is_temporary


async def test_an_object_is_read_from_a_store_that_is_allowed() -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/photos/a.jpg", PHOTO)
    store.pipe_file("/photos/large.jpg", bytes(MAX_IMAGE_BYTES + 1))
    photos = StoredPhotos(["memory"], timeout_s=5)
    try:
        fetched = await photos.fetch("memory://photos/a.jpg")
        assert isinstance(fetched, FetchedPhoto)
        assert fetched.data == PHOTO
        causes = []
        for url in ("memory://photos/none.jpg", "memory://photos/large.jpg", "memory://photos", "file:///etc/passwd"):
            with pytest.raises(FetchError) as error:
                await photos.fetch(url)
            causes.append(error.value.cause)
        assert causes == [FetchCause.NOT_FOUND, FetchCause.TOO_LARGE, FetchCause.NOT_A_PHOTO, FetchCause.BLOCKED]
    finally:
        store.rm("/photos", recursive=True)


async def test_a_store_that_hangs_is_given_up_and_holds_its_thread_no_longer_than_it_hangs() -> None:
    release, places = threading.Event(), asyncio.Semaphore(1)
    with pytest.raises(FetchError) as error:
        await files._on_thread(release.wait, places, 0.05, "hangs")
    assert error.value.cause is FetchCause.TIMED_OUT
    assert places.locked()
    release.set()
    await asyncio.wait_for(places.acquire(), 5)


async def test_a_path_without_a_directory_is_told(tmp_path: Path) -> None:
    fetcher = PhotoFetcher(FetchSettings())
    try:
        with pytest.raises(FetchError, match="no directory of photos is set"):
            await fetcher("a.jpg")
    finally:
        await fetcher.close()
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    fetcher = PhotoFetcher(FetchSettings(directories=[tmp_path]))
    try:
        assert isinstance(await fetcher("a.jpg"), FetchedPhoto)
    finally:
        await fetcher.close()


async def test_a_root_that_an_event_names_is_one_of_the_directories_or_inside_one(tmp_path: Path) -> None:
    shop = tmp_path / "shops" / "one"
    shop.mkdir(parents=True)
    (shop / "a.jpg").write_bytes(PHOTO)
    fetcher = PhotoFetcher(FetchSettings(directories=[tmp_path / "other", tmp_path / "shops"]))
    try:
        assert isinstance(await fetcher("a.jpg", root=str(shop)), FetchedPhoto)
        for root in (str(tmp_path), str(shop / ".." / ".." / ".."), "relative", "/"):
            with pytest.raises(FetchError) as error:
                await fetcher("a.jpg", root=root)
            assert error.value.cause is FetchCause.BLOCKED
    finally:
        await fetcher.close()
