"""`lookalike catalog upsert` and `remove` against a small real gRPC server."""

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

RunCommand = Callable[..., Awaitable[int]]


@pytest.fixture
def requests() -> list[Message]:
    return []


@pytest.fixture
async def run_command(requests: list[Message]) -> AsyncIterator[RunCommand]:
    """Runs a command as a shell would, and returns its exit status."""

    async def upsert(request: UpsertRequest, deadline: Deadline) -> ChangeResponse:
        requests.append(request)
        if request.product.price < 0:
            raise InvalidRequest("product.price", "is below 0")
        return ChangeResponse(applied=True, spaces=[SPACE_IMAGE, SPACE_TEXT] if request.vectors else [])

    async def remove(request: RemoveRequest, deadline: Deadline) -> ChangeResponse:
        requests.append(request)
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

    async def shell(command: str, *arguments: str) -> int:
        return await asyncio.to_thread(_status, command, [*arguments, "--address", address])

    yield shell
    await server.stop(None)


def _status(command: str, arguments: Sequence[str]) -> int:
    try:
        return run(lambda: getattr(catalog, command)(arguments, {}))
    except SystemExit as error:
        return int(str(error.code))


async def test_an_upsert_sends_its_arguments_and_prints_the_spaces(
    run_command: RunCommand, requests: list[Message], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "photo.npy", np.array([[1, 2]], np.float64))
    arguments = [
        "p-17",
        "--revision",
        "7",
        "--title",
        "red",
        "--price",
        "4900",
        "--in-stock",
        "--tag",
        "a",
        "--tag",
        "b",
    ]
    assert await run_command("upsert", *arguments, "--vector", f"image={tmp_path / 'photo.npy'}") == 0
    (request,) = requests
    assert isinstance(request, UpsertRequest)
    assert request.product == Product(id="p-17", title="red", price=4900, in_stock=True, tags=["a", "b"])
    assert (request.revision, request.encode) == (7, False)
    assert [(each.space, each.vector) for each in request.vectors] == [(SPACE_IMAGE, np.array([1, 2], "<f4").tobytes())]
    assert capsys.readouterr().out == "p-17: changed, revision 7; in the spaces: image, text\n"


async def test_an_upsert_without_vectors_warns_that_no_search_finds_the_product(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("upsert", "p-17", "--revision", "7", "--title", "red") == 0
    assert capsys.readouterr().out == "p-17: changed, revision 7; it has no vector: no search finds it\n"


async def test_the_default_revision_is_the_current_time(run_command: RunCommand, requests: list[Message]) -> None:
    assert await run_command("remove", "p-17") == 0
    (request,) = requests
    assert isinstance(request, RemoveRequest)
    assert request.revision > 1_700_000_000_000  # Milliseconds: after 2023.


async def test_a_change_with_an_old_revision_is_not_an_error(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("remove", "p-17", "--revision", "5") == 0
    assert "p-17: not changed: revision 5 or a newer one is already stored" in capsys.readouterr().out
    assert await run_command("remove", "p-17", "--revision", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"applied": False, "spaces": []}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["upsert", "p-17", "--price", "-1"], 2, "product.price: is below 0"),
        (
            ["upsert", "p-17", "--vector", "smell=x.npy"],
            2,
            "expected SPACE=FILE.npy with one of the spaces image, text, product\n",
        ),
        (
            ["upsert", "p-17", "--vector", "auto=x.npy"],
            2,
            "expected SPACE=FILE.npy with one of the spaces image, text, product\n",
        ),
        (["upsert", "p-17", "--vector", "text=/no/such.npy"], 2, "No such file"),
        (["upsert", "p-17", "--vector", f"text={__file__}"], 2, f"{__file__}: not a .npy file"),
        (["upsert", "p-17", "--encode", "--image", "/no/such.jpg"], 2, "No such file"),
        (["remove", "none"], 1, "this shard takes no updates"),
    ],
)
async def test_a_failure_has_a_message_and_an_exit_status(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert await run_command(*arguments) == status
    assert message in capsys.readouterr().err
