"""`lookalike classify` against a small real gRPC server."""

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
from tests.rpc.gateways import no_stream

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

RunCommand = Callable[..., Awaitable[int]]


@pytest.fixture
def requests() -> list[ClassifyRequest]:
    return []


@pytest.fixture
async def run_command(requests: list[ClassifyRequest]) -> AsyncIterator[RunCommand]:
    """Runs the command as a shell would, and returns its exit status."""

    async def respond(request: ClassifyRequest, deadline: Deadline) -> ClassifyResponse:
        requests.append(request)
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
    server = edge.server(
        [
            edge.handler(
                service,
                {
                    "Search": search,
                    "SearchStream": no_stream,
                    "BatchSearch": search,
                    "FindDuplicates": search,
                    "Classify": respond,
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
        return run(lambda: classify.main(arguments, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(
    run_command: RunCommand, requests: list[ClassifyRequest], tmp_path: Path
) -> None:
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    arguments = ["--image", str(tmp_path / "shoe.jpg"), "--text", "red", "--precision", "0.95", "--limit", "3"]
    assert await run_command(*arguments) == 0
    assert await run_command("--product", "p-9") == 0
    assert requests == [
        ClassifyRequest(image=b"a photo", text="red", precision=0.95, limit=3),
        ClassifyRequest(product_id="p-9"),
    ]


async def test_the_output_has_the_probabilities_the_category_and_the_provenance(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--product", "p-9") == 0
    printed = capsys.readouterr().out
    output = " ".join(printed.split())
    assert "fashion/shoes 0.875" in output
    assert "[bold]food [2J 0.125" in output  # Shown as it is: neither markup nor terminal commands take effect.
    assert "category: fashion/shoes" in output
    assert "by image and text · encoder product-0123456789ab · version 20260101-abc" in output
    assert "precision 0.95 · threshold 0.750" in output
    assert "degraded: the image encoder is untrained" in output


def test_an_abstention_gives_its_reason_and_no_category() -> None:
    abstention = ClassifyResponse(
        abstention_reason="too unlikely", provenance=ClassifyProvenance(precision=0.9, threshold=2)
    )
    line = str(render.classification_provenance(abstention))
    assert line.startswith("no category: too unlikely\n")
    assert "no threshold reaches it" in line
    assert line.count("category") == 1


async def test_json_is_the_whole_response_with_the_field_names_of_the_protos(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--text", "red", "--json") == 0
    response = json.loads(capsys.readouterr().out)
    assert (response["category"], response["abstention_reason"]) == ("fashion/shoes", "")
    assert response["provenance"]["inputs"] == ["SPACE_IMAGE", "SPACE_TEXT"]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ([], 2, "give --product, or --image, --text or both"),
        (["--image", "no-such-file.jpg"], 2, "no-such-file.jpg: No such file"),
        (["--text", "☺"], 2, "text: has no words"),
        (["--text", "none"], 1, "no product encoder is deployed"),
    ],
)
async def test_a_failure_has_a_reason_and_an_exit_status(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, reason: str
) -> None:
    assert await run_command(*arguments) == status
    assert reason in capsys.readouterr().err
