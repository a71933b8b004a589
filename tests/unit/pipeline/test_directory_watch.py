"""Publishing what changes in a catalogue's directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lookalike.errors import BadArtifact, BadCatalogue, Unavailable
from lookalike.stream import event as events
from lookalike.stream.memory_stream import MemoryStream
from lookalike.v1.event_pb2 import ProductEvent
from pipeline.catalogue_report import CatalogueReport
from pipeline.directory_watch import DirectoryWatch, PassResult, WatchOptions, look
from pipeline.publisher import Publisher
from pipeline.tables.reader import DEFAULT_OPTIONS
from pipeline.watch_state import FileState, WatchState
from tests.contract.test_product_stream import only_consumer, take
from tests.unit.pipeline.catalogues import VALID_ROW, numbered_rows, photo, write_jsonl

RED, BLUE = photo((200, 0, 0)), photo((0, 0, 200))


class Watched:
    """A directory that is watched, and the stream that its changes go to."""

    def __init__(self, directory: Path, state: WatchState, stream: MemoryStream, **options: object) -> None:
        self.directory = directory
        self.stream = stream
        self.report = CatalogueReport()
        publisher = Publisher(stream, wait_s=0, note=lambda text: None)
        settings = WatchOptions(table=DEFAULT_OPTIONS, **options)  # type: ignore[arg-type]  # of WatchOptions
        self._watch = DirectoryWatch(directory, state, publisher, settings)

    def write(self, *rows: object, **photos: bytes) -> None:
        files = {f"{name}.png": data for name, data in photos.items()}
        write_jsonl(self.directory, *rows, photos=files)  # type: ignore[arg-type]  # rows

    async def read(self) -> PassResult:
        self.report = CatalogueReport()
        return await self._watch.read(self.report)

    async def changes(self) -> list[tuple[str, str]]:
        """Reads, and returns what was published by it: kind and product."""
        published = await self.events()
        return sorted(
            (event.change.WhichOneof("change") or "", events.product_id_of(event.change)) for event in published
        )

    async def events(self) -> list[ProductEvent]:
        result = await self.read()
        count = result.published + result.removed
        async with only_consumer(self.stream) as consumer:
            records = await take(consumer, count) if count else []
            await consumer.ack(records)
        return [record.event for record in records]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WatchState]:
    with WatchState(tmp_path / "state.sqlite") as state:
        yield state


@pytest.fixture
async def stream() -> AsyncIterator[MemoryStream]:
    stream = MemoryStream(2, lease_s=60, heartbeat_s=0.02)
    yield stream
    await stream.close()


@pytest.fixture
def watched(tmp_path: Path, state: WatchState, stream: MemoryStream) -> Watched:
    return Watched(tmp_path / "shop", state, stream)


async def test_all_is_published_at_first_and_then_only_what_changes(watched: Watched) -> None:
    watched.write(*numbered_rows(3))
    assert await watched.changes() == [("upsert", "p0"), ("upsert", "p1"), ("upsert", "p2")]
    assert await watched.changes() == []
    watched.write({"id": "p0"}, {"id": "p1", "price": 5}, {"id": "p2"}, {"id": "p3"})
    assert await watched.changes() == [("upsert", "p1"), ("upsert", "p3")]


async def test_a_photo_with_other_bytes_is_a_change_and_one_that_was_only_touched_is_none(watched: Watched) -> None:
    watched.write({"id": "a", "image": "a.png"}, {"id": "b", "image": "b.png"}, a=RED, b=RED)
    await watched.changes()
    os.utime(watched.directory / "a.png", ns=(1, 1))
    assert await watched.changes() == []
    (watched.directory / "a.png").write_bytes(BLUE)
    assert await watched.changes() == [("upsert", "a")]


async def test_a_photo_that_is_dropped_later_is_published_with_its_product(watched: Watched) -> None:
    watched.write({"id": "a", "image": "a.png"})
    (event,) = await watched.events()
    assert not event.change.upsert.product.image
    (watched.directory / "a.png").write_bytes(RED)
    (event,) = await watched.events()
    assert event.change.upsert.product.image == "a.png"
    assert event.photo_root == str(watched.directory.resolve())


async def test_after_a_restart_only_what_has_changed_is_published(
    watched: Watched, tmp_path: Path, stream: MemoryStream
) -> None:
    watched.write({"id": "a", "image": "a.png"}, {"id": "b"}, a=RED)
    await watched.changes()
    with WatchState(tmp_path / "state.sqlite") as reopened:
        again = Watched(watched.directory, reopened, stream)
        assert await again.changes() == []
        again.write({"id": "a", "image": "a.png"}, {"id": "b", "price": 7}, a=RED)
        assert await again.changes() == [("upsert", "b")]


async def test_what_could_not_be_published_is_published_with_the_next_reading(
    watched: Watched, stream: MemoryStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write(*numbered_rows(3))

    async def fail(events_: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(stream, "append", fail)
        with pytest.raises(Unavailable):
            await watched.read()
    assert len(await watched.changes()) == 3


async def test_a_product_that_left_the_file_is_removed_only_if_that_is_wanted(
    watched: Watched, state: WatchState, stream: MemoryStream
) -> None:
    watched.write(*numbered_rows(20))
    await watched.changes()
    watched.write(*numbered_rows(19))
    assert await watched.changes() == []
    removing = Watched(watched.directory, state, stream, remove_missing=True)
    assert await removing.changes() == [("remove", "p19")]
    assert await removing.changes() == []
    removing.write(*numbered_rows(20))
    assert await removing.changes() == [("upsert", "p19")]


async def test_a_file_that_lacks_many_products_removes_none(
    watched: Watched, state: WatchState, stream: MemoryStream
) -> None:
    removing = Watched(watched.directory, state, stream, remove_missing=True, max_removed=0.1)
    removing.write(*numbered_rows(20))
    await removing.changes()
    removing.write(*numbered_rows(3))
    result = await removing.read()
    assert (result.removed, result.not_removed, result.unchanged) == (0, 17, 3)
    removing.write(*numbered_rows(20))
    assert await removing.changes() == []


async def test_a_product_whose_row_is_bad_stays_as_it_was(
    watched: Watched, state: WatchState, stream: MemoryStream
) -> None:
    removing = Watched(watched.directory, state, stream, remove_missing=True, max_removed=1.0)
    removing.write(*numbered_rows(3))
    await removing.changes()
    removing.write({"id": "p0"}, {"id": "p1", "price": -1}, {"id": "p2"})
    assert await removing.changes() == []
    assert removing.report.rejected == 1


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write({"id": "a"})
    copies: list[Path] = []
    copy = shutil.copyfile

    def copy_while_written(source: Path, target: Path) -> Path:
        copies.append(copy(source, target))
        if len(copies) == 1:
            row = json.dumps(VALID_ROW | {"id": "b"})
            with source.open("a") as file:
                file.write(row + "\n")
        return target

    monkeypatch.setattr(shutil, "copyfile", copy_while_written)
    assert await watched.changes() == [("upsert", "a"), ("upsert", "b")]
    assert len(copies) == 2


async def test_a_file_that_never_stops_changing_is_left_to_the_next_look(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write({"id": "a"})
    copy = shutil.copyfile

    def copy_while_written(source: Path, target: Path) -> Path:
        copy(source, target)
        with source.open("a") as file:
            file.write("\n")
        return target

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", copy_while_written)
        with pytest.raises(BadCatalogue, match="changes while it is read"):
            await watched.read()
    assert await watched.changes() == [("upsert", "a")]


async def test_a_products_file_that_cannot_be_read_is_an_error_and_changes_nothing(watched: Watched) -> None:
    watched.write({"id": "a"})
    await watched.changes()
    (watched.directory / "products.jsonl").rename(watched.directory / "gone")
    with pytest.raises(BadCatalogue):
        await watched.read()
    (watched.directory / "gone").rename(watched.directory / "products.jsonl")
    assert await watched.changes() == []


def test_a_look_sees_every_change_of_a_file_and_no_hidden_one(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "a.png"
    file.write_bytes(b"a")
    (tmp_path / ".state").write_bytes(b"a")
    first = look(tmp_path)
    assert [*first] == [str(file)]
    assert first[str(file)] == FileState.of(file)
    file.write_bytes(b"ab")
    second = look(tmp_path)
    assert second != first
    (tmp_path / "images" / "new").write_bytes(b"ab")
    (tmp_path / "images" / "new").replace(file)
    assert look(tmp_path) != second
    assert look(tmp_path / "none") == {}


def test_a_state_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be read as one" * 100)
    with pytest.raises(BadArtifact, match="remove it to publish all anew"):
        WatchState(tmp_path / "text")
