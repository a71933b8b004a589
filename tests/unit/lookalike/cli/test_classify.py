"""`lookalike classify`, against a small real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from lookalike.cli import classify, render
from lookalike.cli.dispatch import run
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import search_pb2
from lookalike.v1.search_pb2 import (
    CategoryProbability,
    ClassifyProvenance,
    ClassifyRequest,
    ClassifyResponse,
    SearchRequest,
    SearchResponse,
)
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT

SHOES = ClassifyResponse(
    category="fashion/shoes",
    categories=[
        CategoryProbability(category="fashion/shoes", probability=0.875),
        CategoryProbability(category="[bold]food\x1b[2J", probability=0.125),
    ],
    provenance=ClassifyProvenance(
        encoder="product-0123456789ab",
        version="20260101-abc",
        inputs=[SPACE_IMAGE, SPACE_TEXT],
        precision=0.95,
        threshold=0.75,
        degraded=["the image encoder is untrained"],
    ),
)

Ask = Callable[..., Awaitable[int]]


@pytest.fixture
def asked() -> list[ClassifyRequest]:
    return []


@pytest.fixture
async def ask(asked: list[ClassifyRequest]) -> AsyncIterator[Ask]:
    """Runs the command as a shell would, its exit status returned."""

    async def answer(request: ClassifyRequest, deadline: Deadline) -> ClassifyResponse:
        asked.append(request)
        refusals: dict[str, LookalikeError] = {
            "☺": InvalidRequest("text", "has no words"),
            "none": FailedPrecondition("no product encoder is deployed"),
        }
        if request.text in refusals:
            raise refusals[request.text]
        return SHOES

    async def search(request: SearchRequest, deadline: Deadline) -> SearchResponse:
        return SearchResponse()

    service = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
    server = edge.server([edge.handler(service, {"Search": search, "FindDuplicates": search, "Classify": answer})])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(*words: str) -> int:
        return await asyncio.to_thread(_status, [*words, "--address", address])

    yield shell
    await server.stop(None)


def _status(words: Sequence[str]) -> int:
    try:
        return run(lambda: classify.main(words, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(ask: Ask, asked: list[ClassifyRequest], tmp_path: Path) -> None:
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    words = ["--image", str(tmp_path / "shoe.jpg"), "--text", "red", "--precision", "0.95", "--limit", "3"]
    assert await ask(*words) == 0
    assert await ask("--product", "p-9") == 0
    assert asked == [
        ClassifyRequest(image=b"a photo", text="red", precision=0.95, limit=3),
        ClassifyRequest(product_id="p-9"),
    ]


async def test_the_answer_is_a_table_a_category_and_what_it_is(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("--product", "p-9") == 0
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert "fashion/shoes 0.875" in words
    assert "[bold]food [2J 0.125" in words  # Shown as it is: it steers nothing.
    assert "category: fashion/shoes" in words
    assert "by image and text · encoder product-0123456789ab · version 20260101-abc" in words
    assert "precision 0.95 · from probability 0.750 on" in words
    assert "degraded: the image encoder is untrained" in words


def test_an_abstention_says_why_and_names_no_category() -> None:
    abstains = ClassifyResponse(
        abstention_reason="too unlikely", provenance=ClassifyProvenance(precision=0.9, threshold=2)
    )
    line = str(render.classification_provenance(abstains))
    assert "abstains: too unlikely" in line
    assert "never reached" in line
    assert "category" not in line


async def test_json_is_the_whole_answer_under_the_names_of_the_protos(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask("--text", "red", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["category"], told["abstained"]) == ("fashion/shoes", "")
    assert told["provenance"]["inputs"] == ["SPACE_IMAGE", "SPACE_TEXT"]


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ([], 2, "give --product, or --image, --text or both"),
        (["--image", "no-such-file.jpg"], 2, "no-such-file.jpg: No such file"),
        (["--text", "☺"], 2, "text: has no words"),
        (["--text", "none"], 1, "no product encoder is deployed"),
    ],
)
async def test_what_cannot_be_answered_has_a_reason_and_an_exit_status(
    ask: Ask, capsys: pytest.CaptureFixture[str], words: list[str], status: int, reason: str
) -> None:
    assert await ask(*words) == status
    assert reason in capsys.readouterr().err
