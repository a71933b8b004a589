"""`lookalike search` against a small real gRPC server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from lookalike.cli import render, search
from lookalike.cli.dispatch import run
from lookalike.errors import InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import search_pb2
from lookalike.v1.search_pb2 import (
    ClassifyRequest,
    ClassifyResponse,
    Contribution,
    Example,
    FindDuplicatesRequest,
    Hit,
    Provenance,
    SearchedSpace,
    SearchRequest,
    SearchResponse,
)
from lookalike.v1.types_pb2 import (
    SPACE_AUTO,
    SPACE_IMAGE,
    SPACE_PRODUCT,
    SPACE_TEXT,
    Filter,
    Product,
    SearchPlan,
    SpaceScore,
    SpaceWeight,
)
from tests.rpc.gateways import no_stream

RESPONSE = SearchResponse(
    hits=[
        Hit(
            product=Product(
                id="p-1",
                title="[bold]靴\x1b[2J",
                category="fashion/shoes",
                shop="kutsuya",
                price=4980,
                currency="JPY",
                in_stock=True,
            ),
            score=0.875,
        ),
        Hit(product=Product(id="p-2", title="boot", price=19.5, currency="EUR"), score=0.5),
    ],
    provenance=Provenance(
        version="20260101-abc",
        spaces=[SearchedSpace(space=SPACE_IMAGE, encoder="mobilenet-0123456789ab", weight=1)],
        coverage=0.5,
        documents_searched=10,
        documents_total=20,
        shards_asked=2,
        shards_answered=1,
        degraded=["shard 1 did not answer"],
    ),
)

RunCommand = Callable[..., Awaitable[int]]


@pytest.fixture
def requests() -> list[SearchRequest]:
    return []


@pytest.fixture
async def run_command(requests: list[SearchRequest]) -> AsyncIterator[RunCommand]:
    """Runs the command as a shell would, and returns its exit status."""

    async def respond(request: SearchRequest, deadline: Deadline) -> SearchResponse:
        requests.append(request)
        if request.limit > 1000:
            raise InvalidRequest("limit", "more than 1000")
        return RESPONSE

    async def duplicates(request: FindDuplicatesRequest, deadline: Deadline) -> SearchResponse:
        return SearchResponse()

    async def classify(request: ClassifyRequest, deadline: Deadline) -> ClassifyResponse:
        return ClassifyResponse()

    service = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
    server = edge.server(
        [
            edge.handler(
                service,
                {
                    "Search": respond,
                    "SearchStream": no_stream,
                    "BatchSearch": respond,
                    "FindDuplicates": duplicates,
                    "Classify": classify,
                },
            )
        ]
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(*arguments: str, at: str = address) -> int:
        return await asyncio.to_thread(_status, [*arguments, "--address", at])

    yield shell
    await server.stop(None)


def _status(arguments: Sequence[str]) -> int:
    try:
        return run(lambda: search.main(arguments, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(run_command: RunCommand, requests: list[SearchRequest]) -> None:
    arguments = ["--product", "p-9", "--space", "image", "--limit", "3", "--exclude-same-shop", "--exact", "--in-stock"]
    arguments += ["--category", "a", "--category", "b/c", "--not-category", "a/x", "--shop", "s", "--not-shop", "t"]
    arguments += ["--min-price", "1", "--max-price", "2.5", "--min-coverage", "0.9"]
    arguments += ["--max-per-shop", "2", "--min-score", "0.5", "--diversity", "0.25"]
    assert await run_command(*arguments) == 0
    assert requests == [
        SearchRequest(
            examples=[Example(product_id="p-9")],
            space=SPACE_IMAGE,
            limit=3,
            exclude_same_shop=True,
            max_per_shop=2,
            min_score=0.5,
            diversity=0.25,
            exact=True,
            min_coverage=0.9,
            filter=Filter(
                category_in=["a", "b/c"],
                category_not_in=["a/x"],
                shop_in=["s"],
                shop_not_in=["t"],
                min_price=1,
                max_price=2.5,
                in_stock=True,
            ),
        )
    ]


async def test_tags_times_and_nested_filters_become_the_filter(
    run_command: RunCommand, requests: list[SearchRequest]
) -> None:
    arguments = ["--product", "p-9", "--tag", "red", "--tag", "women", "--any-tag", "a", "--not-tag", "sale"]
    arguments += ["--created-after", "2025-11-25T18:25+09:00"]
    arguments += ["--filter", '{"any_of": [{"tags_any": ["b"]}, {"none_of": [{"max_price": 10}]}]}']
    assert await run_command(*arguments) == 0
    tree = Filter(any_of=[Filter(tags_any=["b"]), Filter(none_of=[Filter(max_price=10)])])
    assert requests[0].filter == Filter(
        tags_all=["red", "women"], tags_any=["a"], tags_none=["sale"], created_after=1_764_062_700, all_of=[tree]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", '{"any_of": [{"colour": "red"}]}'], 'no field named "colour" at "Filter.any_of[0]"'),
        (["--filter", "{"], "Failed to load JSON"),
        (["--filter", '{"max_price": "cheap"}'], "max_price"),
        (["--created-after", "yesterday"], "expected seconds since 1970 or a time"),
        (["--created-after", "1764062700000"], "expected seconds since 1970"),
    ],
)
async def test_an_invalid_filter_is_refused_before_a_request_is_sent(
    run_command: RunCommand,
    requests: list[SearchRequest],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert await run_command("--product", "p-9", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not requests


async def test_examples_of_all_kinds_keep_their_order_and_their_weights(
    run_command: RunCommand, requests: list[SearchRequest], tmp_path: Path
) -> None:
    vector = np.array([1, 2], np.float32)
    np.save(tmp_path / "one.npy", vector[None])
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    arguments = ["--text", "red", "--image", str(tmp_path / "shoe.jpg"), "--product", "p-9"]
    arguments += ["--vector", str(tmp_path / "one.npy"), "--space", "text"]
    assert await run_command(*arguments, "--weight", "1", "--weight", "2", "--weight", "-0.5", "--weight", "3") == 0
    assert requests[0].space == SPACE_TEXT
    assert list(requests[0].examples) == [
        Example(text="red", weight=1),
        Example(image=b"a photo", weight=2),
        Example(product_id="p-9", weight=-0.5),
        Example(vector=vector.tobytes(), weight=3),
    ]


async def test_weights_select_several_spaces(run_command: RunCommand, requests: list[SearchRequest]) -> None:
    arguments = ["--image", str(Path(__file__)), "--text", "red", "--weights", "image=0.75, text=0.5", "--explain"]
    assert await run_command(*arguments) == 0
    assert list(requests[0].weights) == [
        SpaceWeight(space=SPACE_IMAGE, weight=0.75),
        SpaceWeight(space=SPACE_TEXT, weight=0.5),
    ]
    assert (requests[0].space, requests[0].explain, len(requests[0].examples)) == (SPACE_AUTO, True, 2)
    assert await run_command("--product", "p-9", "--space", "product") == 0
    assert requests[1].space == SPACE_PRODUCT


async def test_the_output_has_the_hits_and_their_provenance(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--product", "p-9") == 0
    output = " ".join(capsys.readouterr().out.split())
    for shown in ("0.875", "p-1", "[bold]靴", "4,980 JPY", "19.50 EUR", "space image", "mobilenet-0123456789ab"):
        assert shown in output
    assert "coverage 50% (10 of 20 vectors)" in output
    assert "degraded: shard 1 did not answer" in output
    assert "\x1b[2J" not in output  # A title does not steer the terminal.


async def test_json_is_the_whole_response_with_the_field_names_of_the_protos(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--product", "p-9", "--json") == 0
    response = json.loads(capsys.readouterr().out)
    assert response["hits"][0]["product"]["id"] == "p-1"
    assert response["provenance"]["shards_answered"] == 1
    assert response["provenance"]["cached"] is False


async def test_an_unreachable_gateway_is_exit_status_1(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("--product", "p-9", at="127.0.0.1:1") == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "at least one of --product"),
        (["--product", "a", "--weight", "1", "--weight", "2"], "1 examples have 2 weights"),
        (["--product", "a", "--space", "smell"], "invalid choice"),
        (["--product", "a", "--space", "text", "--weights", "text=1"], "not allowed with"),
        (["--product", "a", "--weights", "smell=1"], "'smell' is not one of"),
        (["--product", "a", "--weights", "image"], "'image' is not SPACE=WEIGHT"),
        (["--product", "a", "--weights", "image=1,image=2"], "image has two weights"),
        (["--image", "no-such-file.jpg"], "no-such-file.jpg: No such file"),
        (["--vector", "no-such-file.npy", "--space", "text"], "no-such-file.npy"),
        (["--product", "a", "--limit", "1001"], "limit: more than 1000"),
    ],
)
async def test_an_invalid_request_is_exit_status_2(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert await run_command(*arguments) == 2
    assert reason in capsys.readouterr().err


async def test_files_that_are_not_vectors_are_refused(
    run_command: RunCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("words.npy", "several.npz", "empty.npy", "objects.npy"):
        assert await run_command("--vector", str(tmp_path / name), "--space", "text") == 2
        assert f"vector: {tmp_path / name}: " in capsys.readouterr().err


def test_a_response_without_hits_says_so_and_empty_columns_are_left_out() -> None:
    assert str(render.table(SearchResponse())) == "nothing found"
    table = render.table(SearchResponse(hits=[Hit(product=Product(id="7"), score=1)]))
    assert isinstance(table, Table)
    assert [column.header for column in table.columns] == ["", "score", "id"]


def test_explained_scores_have_a_column_for_each_space() -> None:
    scores = [SpaceScore(space=SPACE_IMAGE, score=0.25), SpaceScore(space=SPACE_TEXT, score=-0.5)]
    hit = Hit(product=Product(id="7"), score=0.125, scores=scores)
    table = render.table(SearchResponse(hits=[hit]))
    assert isinstance(table, Table)
    columns = {column.header: [str(cell) for cell in column.cells] for column in table.columns}
    assert columns == {"": ["1"], "score": ["0.125"], "image": ["0.250"], "text": ["-0.500"], "id": ["7"]}


def test_explained_hits_have_a_line_with_the_words_and_examples_that_counted_most() -> None:
    words = [Contribution(word="赤い", score=0.3125), Contribution(word="shoe\n", score=-0.0625)]
    sides = [Contribution(side="photo", score=0.25), Contribution(example=1, score=-0.125)]
    hits = [Hit(product=Product(id="a"), contributions=words), Hit(product=Product(id="b"), contributions=sides)]
    lines = str(render.contributions(SearchResponse(hits=hits), ["p-17", "with a very long description"])).splitlines()
    assert lines == [
        "1  a: 赤い +0.312 · shoe  -0.062",
        "2  b: photo of p-17 +0.250 · with a very long descri… -0.125",
    ]
    single = SearchResponse(hits=[Hit(product=Product(id="b"), contributions=sides[:1])])
    assert str(render.contributions(single, ["p-17"])) == str(render.contributions(single)) == "1  b: photo +0.250"


def test_no_more_than_the_greatest_contributions_are_printed_and_none_where_nothing_is_explained() -> None:
    many = [Contribution(word=f"w{i}", score=0.5) for i in range(9)]
    response = SearchResponse(hits=[Hit(product=Product(id="a"), contributions=many), Hit(product=Product(id="b"))])
    line = str(render.contributions(response))
    assert line.endswith(" · w7 +0.500 · …")
    assert "b:" not in line
    assert not render.contributions(SearchResponse(hits=[Hit(product=Product(id="b"))]))


def test_the_provenance_line_names_every_space_with_its_weight_and_the_policy() -> None:
    fused = [
        SearchedSpace(space=SPACE_IMAGE, encoder="mobilenet-1", weight=0.7),
        SearchedSpace(space=SPACE_TEXT, encoder="scdv-2", weight=0.3),
    ]
    line = str(render.provenance(Provenance(spaces=fused)))
    assert "spaces image 70% + text 30%" in line
    assert "encoders mobilenet-1, scdv-2" in line
    assert "policy" not in line
    chosen = Provenance(spaces=[SearchedSpace(space=SPACE_PRODUCT, weight=1)], policy="fashion=product>image")
    assert "space product · policy fashion=product>image" in str(render.provenance(chosen))


def test_the_provenance_line_says_how_stale_a_cached_answer_is() -> None:
    assert "computed" in str(render.provenance(Provenance()))
    current, stale = Provenance(cached=True), Provenance(cached=True, stale_s=4.25)
    assert "cached ·" in str(render.provenance(current))
    assert "cached 4.2 s ago: a product added or changed since may be missing ·" in str(render.provenance(stale))


def test_explained_searches_show_the_plan_of_each_shard() -> None:
    exact = SearchPlan(shard=0, space=SPACE_IMAGE, documents=60_000, matching=200)
    approximate = SearchPlan(
        shard=1,
        space=SPACE_TEXT,
        documents=60_000,
        matching=6_000,
        recipe="IVF,PQ4fs",
        depth=145,
        search_parameter=32,
        candidates=1160,
    )
    lines = str(render.provenance(Provenance(plans=[exact, approximate]))).splitlines()
    assert lines[1:] == [
        "shard 0, image: 200 of 60,000 vectors match the filter · brute force",
        "shard 1, text: 6,000 of 60,000 vectors match the filter · "
        "IVF,PQ4fs, depth 145, search_parameter 32, 1,160 candidates",
    ]


def test_prices_show_decimals_only_if_there_are_some_and_an_unknown_one_is_not_zero() -> None:
    prices = [Product(price=1234567, currency="JPY"), Product(price=0.5, currency="EUR"), Product(price=0), Product()]
    assert [render.price(product) for product in prices] == ["1,234,567 JPY", "0.50 EUR", "0", "unknown"]
