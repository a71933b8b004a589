"""`lookalike duplicates` against a small real gRPC server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lookalike.cli import duplicates
from lookalike.cli.dispatch import run
from lookalike.errors import NotFound
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import search_pb2
from lookalike.v1.search_pb2 import Example, FindDuplicatesRequest, Hit, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_PRODUCT, DuplicatesThreshold, Filter, Product
from tests.rpc.gateways import no_stream

RunCommand = Callable[..., Awaitable[int]]
THRESHOLD = DuplicatesThreshold(min_score=0.921, precision=0.953, recall=0.61, queries=500, measured_by="made copies")
RESPONSE = SearchResponse(
    hits=[Hit(product=Product(id="p-18", title="赤い靴"), score=0.99)], truncated=True, threshold=THRESHOLD
)


@pytest.fixture
def requests() -> list[FindDuplicatesRequest]:
    return []


@pytest.fixture
async def run_command(requests: list[FindDuplicatesRequest]) -> AsyncIterator[RunCommand]:
    """Runs the command as a shell would, and returns its exit status."""

    async def respond(request: FindDuplicatesRequest, deadline: Deadline) -> SearchResponse:
        requests.append(request)
        if request.example.product_id == "missing":
            raise NotFound("no product missing")
        return RESPONSE

    async def other(request: SearchRequest, deadline: Deadline) -> SearchResponse:
        return SearchResponse()

    service = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
    server = edge.server(
        [
            edge.handler(
                service,
                {
                    "Search": other,
                    "SearchStream": no_stream,
                    "BatchSearch": other,
                    "FindDuplicates": respond,
                    "Classify": other,
                },
            )
        ]
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(*arguments: str) -> int:
        return await asyncio.to_thread(_status, [*arguments, "--address", address])

    yield shell
    await server.stop(None)


def _status(arguments: Sequence[str]) -> int:
    try:
        return run(lambda: duplicates.main(arguments, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(run_command: RunCommand, requests: list[FindDuplicatesRequest]) -> None:
    arguments = ["--product", "p-17", "--space", "product", "--min-score", "0.5", "--limit", "7", "--exclude-same-shop"]
    arguments += ["--exact", "--min-coverage", "1", "--explain", "--category", "fashion", "--not-tag", "sale"]
    assert await run_command(*arguments) == 0
    assert requests == [
        FindDuplicatesRequest(
            example=Example(product_id="p-17"),
            space=SPACE_PRODUCT,
            min_score=0.5,
            limit=7,
            filter=Filter(category_in=["fashion"], tags_none=["sale"]),
            exclude_same_shop=True,
            exact=True,
            min_coverage=1,
            explain=True,
        )
    ]


async def test_flags_that_are_left_out_are_not_sent(
    run_command: RunCommand, requests: list[FindDuplicatesRequest], tmp_path: Path
) -> None:
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    np.save(tmp_path / "one.npy", np.array([1, 2], np.float32))
    for arguments in (
        ["--text", "靴"],
        ["--image", str(tmp_path / "shoe.jpg")],
        ["--vector", str(tmp_path / "one.npy")],
    ):
        assert await run_command(*arguments) == 0
    sources = [Example(text="靴"), Example(image=b"a photo"), Example(vector=np.array([1, 2], "<f4").tobytes())]
    assert requests == [FindDuplicatesRequest(example=each, filter=Filter()) for each in sources]


async def test_the_output_is_json_or_a_table_that_says_if_the_limit_cut_it_off(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--product", "p-17") == 0
    shown = capsys.readouterr().out
    assert "p-18" in shown
    assert "the limit cuts off" in shown
    line = " ".join(shown.split())
    assert "score at least 0.921 · as measured by made copies, 95% of an answer are the same product, and 61%" in line
    assert await run_command("--product", "p-17", "--json") == 0
    response = json.loads(capsys.readouterr().out)
    assert (response["hits"][0]["product"]["id"], response["truncated"]) == ("p-18", True)


async def test_the_exit_status_says_whether_the_service_or_the_arguments_are_at_fault(
    run_command: RunCommand, requests: list[FindDuplicatesRequest]
) -> None:
    assert await run_command("--product", "missing") == 1
    assert await run_command() == 2
    assert await run_command("--product", "p-17", "--text", "shoe") == 2
    assert await run_command("--image", "/nowhere.jpg") == 2
    assert len(requests) == 1
