"""`lookalike catalog upsert` and `remove`, against a small real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message

from lookalike.cli import catalog
from lookalike.cli.dispatch import run
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import catalog_pb2
from lookalike.v1.catalog_pb2 import ChangeResponse, RemoveRequest, UpsertRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product

Change = Callable[..., Awaitable[int]]


@pytest.fixture
def asked() -> list[Message]:
    return []


@pytest.fixture
async def change(asked: list[Message]) -> AsyncIterator[Change]:
    """Runs a command as a shell would, its exit status returned."""

    async def upsert(request: UpsertRequest, deadline: Deadline) -> ChangeResponse:
        asked.append(request)
        if request.product.price < 0:
            raise InvalidRequest("product.price", "is below 0")
        return ChangeResponse(applied=True, spaces=[SPACE_IMAGE, SPACE_TEXT] if request.vectors else [])

    async def remove(request: RemoveRequest, deadline: Deadline) -> ChangeResponse:
        asked.append(request)
        if request.product_id == "none":
            raise FailedPrecondition("this shard takes no updates")
        return ChangeResponse(applied=request.revision > 5)

    async def other(request: Message, deadline: Deadline) -> Message:
        raise AssertionError(request)

    service = catalog_pb2.DESCRIPTOR.services_by_name["Catalog"]
    methods = dict.fromkeys(("Get", "Exists", "Count", "List"), other)
    server = edge.server([edge.handler(service, {**methods, "Upsert": upsert, "Remove": remove})])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(command: str, *words: str) -> int:
        return await asyncio.to_thread(_status, command, [*words, "--address", address])

    yield shell
    await server.stop(None)


def _status(command: str, words: Sequence[str]) -> int:
    try:
        return run(lambda: getattr(catalog, command)(words, {}))
    except SystemExit as error:
        return int(str(error.code))


async def test_an_upsert_says_what_was_given_and_tells_the_spaces(
    change: Change, asked: list[Message], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "photo.npy", np.array([[1, 2]], np.float64))
    words = ["p-17", "--revision", "7", "--title", "red", "--price", "4900", "--in-stock", "--tag", "a", "--tag", "b"]
    assert await change("upsert", *words, "--vector", f"image={tmp_path / 'photo.npy'}") == 0
    (request,) = asked
    assert isinstance(request, UpsertRequest)
    assert request.product == Product(id="p-17", title="red", price=4900, in_stock=True, tags=["a", "b"])
    assert (request.revision, request.encode) == (7, False)
    assert [(each.space, each.vector) for each in request.vectors] == [(SPACE_IMAGE, np.array([1, 2], "<f4").tobytes())]
    assert capsys.readouterr().out == "p-17: changed, revision 7; in the spaces: image, text\n"


async def test_of_a_product_without_vectors_it_is_told_that_no_search_finds_it(
    change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await change("upsert", "p-17", "--revision", "7", "--title", "red") == 0
    assert capsys.readouterr().out == "p-17: changed, revision 7; it has no vector: no search finds it\n"


async def test_without_a_revision_the_clock_gives_one(change: Change, asked: list[Message]) -> None:
    assert await change("remove", "p-17") == 0
    (request,) = asked
    assert isinstance(request, RemoveRequest)
    assert request.revision > 1_700_000_000_000  # Milliseconds: after 2023.


async def test_a_late_change_is_no_failure(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    assert await change("remove", "p-17", "--revision", "5") == 0
    assert "p-17: nothing changed: revision 5 or a newer one was known" in capsys.readouterr().out
    assert await change("remove", "p-17", "--revision", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"applied": False, "spaces": []}


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["upsert", "p-17", "--price", "-1"], 2, "product.price: is below 0"),
        (["upsert", "p-17", "--vector", "smell=x.npy"], 2, "not SPACE=FILE.npy with a space of image, text, product\n"),
        (["upsert", "p-17", "--vector", "auto=x.npy"], 2, "not SPACE=FILE.npy with a space of image, text, product\n"),
        (["upsert", "p-17", "--vector", "text=/no/such.npy"], 2, "No such file"),
        (["upsert", "p-17", "--vector", f"text={__file__}"], 2, f"{__file__}: not a .npy file"),
        (["upsert", "p-17", "--encode", "--image", "/no/such.jpg"], 2, "No such file"),
        (["remove", "none"], 1, "this shard takes no updates"),
    ],
)
async def test_what_fails_is_told_with_its_exit_status(
    change: Change, capsys: pytest.CaptureFixture[str], words: list[str], status: int, told: str
) -> None:
    assert await change(*words) == status
    assert told in capsys.readouterr().err
