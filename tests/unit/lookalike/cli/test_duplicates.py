"""`lookalike duplicates`, against a small real server."""

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
from lookalike.v1.types_pb2 import SPACE_PRODUCT, Filter, Product

Ask = Callable[..., Awaitable[int]]
ANSWER = SearchResponse(hits=[Hit(product=Product(id="p-18", title="赤い靴"), score=0.99)], truncated=True)


@pytest.fixture
def asked() -> list[FindDuplicatesRequest]:
    return []


@pytest.fixture
async def ask(asked: list[FindDuplicatesRequest]) -> AsyncIterator[Ask]:
    """Runs the command as a shell would, its exit status returned."""

    async def answer(request: FindDuplicatesRequest, deadline: Deadline) -> SearchResponse:
        asked.append(request)
        if request.example.product_id == "nobody":
            raise NotFound("no product nobody")
        return ANSWER

    async def other(request: SearchRequest, deadline: Deadline) -> SearchResponse:
        return SearchResponse()

    service = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
    server = edge.server([edge.handler(service, {"Search": other, "FindDuplicates": answer, "Classify": other})])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(*words: str) -> int:
        return await asyncio.to_thread(_status, [*words, "--address", address])

    yield shell
    await server.stop(None)


def _status(words: Sequence[str]) -> int:
    try:
        return run(lambda: duplicates.main(words, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(ask: Ask, asked: list[FindDuplicatesRequest]) -> None:
    words = ["--product", "p-17", "--space", "product", "--min-score", "0.5", "--limit", "7", "--exclude-same-shop"]
    words += ["--exact", "--min-coverage", "1", "--explain", "--category", "fashion", "--not-tag", "sale"]
    assert await ask(*words) == 0
    assert asked == [
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


async def test_what_is_not_given_is_not_sent(ask: Ask, asked: list[FindDuplicatesRequest], tmp_path: Path) -> None:
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    np.save(tmp_path / "one.npy", np.array([1, 2], np.float32))
    for words in (
        ["--text", "靴"],
        ["--image", str(tmp_path / "shoe.jpg")],
        ["--vector", str(tmp_path / "one.npy")],
    ):
        assert await ask(*words) == 0
    sources = [Example(text="靴"), Example(image=b"a photo"), Example(vector=np.array([1, 2], "<f4").tobytes())]
    assert asked == [FindDuplicatesRequest(example=each, filter=Filter()) for each in sources]


async def test_the_answer_is_a_table_that_says_it_was_cut_or_json(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("--product", "p-17") == 0
    shown = capsys.readouterr().out
    assert "p-18" in shown
    assert "the limit leaves them out" in shown
    assert await ask("--product", "p-17", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["hits"][0]["product"]["id"], told["truncated"]) == ("p-18", True)


async def test_the_exit_status_tells_whose_fault_it_is(ask: Ask, asked: list[FindDuplicatesRequest]) -> None:
    assert await ask("--product", "nobody") == 1
    assert await ask() == 2
    assert await ask("--product", "p-17", "--text", "shoe") == 2
    assert await ask("--image", "/nowhere.jpg") == 2
    assert len(asked) == 1
