"""`lookalike search`, against a small real server."""

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

ANSWER = SearchResponse(
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

Ask = Callable[..., Awaitable[int]]


@pytest.fixture
def asked() -> list[SearchRequest]:
    return []


@pytest.fixture
async def ask(asked: list[SearchRequest]) -> AsyncIterator[Ask]:
    """Runs the command as a shell would, its exit status returned."""

    async def answer(request: SearchRequest, deadline: Deadline) -> SearchResponse:
        asked.append(request)
        if request.limit > 1000:
            raise InvalidRequest("limit", "more than 1000")
        return ANSWER

    async def duplicates(request: FindDuplicatesRequest, deadline: Deadline) -> SearchResponse:
        return SearchResponse()

    async def classify(request: ClassifyRequest, deadline: Deadline) -> ClassifyResponse:
        return ClassifyResponse()

    service = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
    server = edge.server(
        [edge.handler(service, {"Search": answer, "FindDuplicates": duplicates, "Classify": classify})]
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def shell(*words: str, at: str = address) -> int:
        return await asyncio.to_thread(_status, [*words, "--address", at])

    yield shell
    await server.stop(None)


def _status(words: Sequence[str]) -> int:
    try:
        return run(lambda: search.main(words, {}))
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else 1


async def test_flags_become_the_request(ask: Ask, asked: list[SearchRequest]) -> None:
    words = ["--product", "p-9", "--space", "image", "--limit", "3", "--exclude-same-shop", "--exact", "--in-stock"]
    words += ["--category", "a", "--category", "b/c", "--not-category", "a/x", "--shop", "s", "--not-shop", "t"]
    words += ["--min-price", "1", "--max-price", "2.5", "--min-coverage", "0.9"]
    words += ["--max-per-shop", "2", "--min-score", "0.5", "--diversity", "0.25"]
    assert await ask(*words) == 0
    assert asked == [
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


async def test_tags_times_and_trees_become_the_filter(ask: Ask, asked: list[SearchRequest]) -> None:
    words = ["--product", "p-9", "--tag", "red", "--tag", "women", "--any-tag", "a", "--not-tag", "sale"]
    words += ["--created-after", "2025-11-25T18:25+09:00"]
    words += ["--filter", '{"any_of": [{"tags_any": ["b"]}, {"none_of": [{"max_price": 10}]}]}']
    assert await ask(*words) == 0
    tree = Filter(any_of=[Filter(tags_any=["b"]), Filter(none_of=[Filter(max_price=10)])])
    assert asked[0].filter == Filter(
        tags_all=["red", "women"], tags_any=["a"], tags_none=["sale"], created_after=1_764_062_700, all_of=[tree]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", '{"any_of": [{"colour": "red"}]}'], 'no field named "colour" at "Filter.any_of[0]"'),
        (["--filter", "{"], "Failed to load JSON"),
        (["--filter", '{"max_price": "cheap"}'], "max_price"),
        (["--created-after", "yesterday"], "neither seconds since 1970 nor a time"),
        (["--created-after", "1764062700000"], "seconds since 1970 are meant"),
    ],
)
async def test_a_filter_that_is_none_is_refused_before_anything_is_asked(
    ask: Ask, asked: list[SearchRequest], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert await ask("--product", "p-9", *words) == 2
    assert said in capsys.readouterr().err
    assert not asked


async def test_examples_of_all_kinds_mix_in_their_order_with_their_weights(
    ask: Ask, asked: list[SearchRequest], tmp_path: Path
) -> None:
    vector = np.array([1, 2], np.float32)
    np.save(tmp_path / "one.npy", vector[None])
    (tmp_path / "shoe.jpg").write_bytes(b"a photo")
    words = ["--text", "red", "--image", str(tmp_path / "shoe.jpg"), "--product", "p-9"]
    words += ["--vector", str(tmp_path / "one.npy"), "--space", "text"]
    assert await ask(*words, "--weight", "1", "--weight", "2", "--weight", "-0.5", "--weight", "3") == 0
    assert asked[0].space == SPACE_TEXT
    assert list(asked[0].examples) == [
        Example(text="red", weight=1),
        Example(image=b"a photo", weight=2),
        Example(product_id="p-9", weight=-0.5),
        Example(vector=vector.tobytes(), weight=3),
    ]


async def test_weights_name_several_spaces(ask: Ask, asked: list[SearchRequest]) -> None:
    words = ["--image", str(Path(__file__)), "--text", "red", "--weights", "image=0.75, text=0.5", "--explain"]
    assert await ask(*words) == 0
    assert list(asked[0].weights) == [
        SpaceWeight(space=SPACE_IMAGE, weight=0.75),
        SpaceWeight(space=SPACE_TEXT, weight=0.5),
    ]
    assert (asked[0].space, asked[0].explain, len(asked[0].examples)) == (SPACE_AUTO, True, 2)
    assert await ask("--product", "p-9", "--space", "product") == 0
    assert asked[1].space == SPACE_PRODUCT


async def test_the_table_shows_hits_and_what_the_answer_is(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("--product", "p-9") == 0
    words = " ".join(capsys.readouterr().out.split())
    for shown in ("0.875", "p-1", "[bold]靴", "4,980 JPY", "19.50 EUR", "space image", "mobilenet-0123456789ab"):
        assert shown in words
    assert "coverage 50% (10 of 20 vectors)" in words
    assert "degraded: shard 1 did not answer" in words
    assert "\x1b[2J" not in words  # A title does not steer the terminal.


async def test_json_is_the_whole_answer_under_the_names_of_the_protos(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask("--product", "p-9", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hits"][0]["product"]["id"] == "p-1"
    assert told["provenance"]["shards_answered"] == 1
    assert told["provenance"]["cached"] is False


async def test_no_service_is_exit_status_1(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("--product", "p-9", at="127.0.0.1:1") == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "at least one of --product"),
        (["--product", "a", "--weight", "1", "--weight", "2"], "1 examples have 2 weights"),
        (["--product", "a", "--space", "smell"], "invalid choice"),
        (["--product", "a", "--space", "text", "--weights", "text=1"], "not allowed with"),
        (["--product", "a", "--weights", "smell=1"], "'smell' is not one of"),
        (["--product", "a", "--weights", "image"], "'image' is not SPACE=WEIGHT"),
        (["--product", "a", "--weights", "image=1,image=2"], "image is there twice"),
        (["--image", "no-such-file.jpg"], "no-such-file.jpg: No such file"),
        (["--vector", "no-such-file.npy", "--space", "text"], "no-such-file.npy"),
        (["--product", "a", "--limit", "1001"], "limit: more than 1000"),
    ],
)
async def test_a_malformed_question_is_exit_status_2(
    ask: Ask, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert await ask(*words) == 2
    assert reason in capsys.readouterr().err


async def test_files_that_are_no_vectors_are_refused(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("words.npy", "several.npz", "empty.npy", "objects.npy"):
        assert await ask("--vector", str(tmp_path / name), "--space", "text") == 2
        assert f"vector: {tmp_path / name}: " in capsys.readouterr().err


def test_an_answer_without_hits_says_so_and_what_nobody_knows_has_no_column() -> None:
    assert str(render.table(SearchResponse())) == "nothing found"
    table = render.table(SearchResponse(hits=[Hit(product=Product(id="7"), score=1)]))
    assert isinstance(table, Table)
    assert [column.header for column in table.columns] == ["", "score", "id"]


def test_explained_scores_stand_beside_the_score_under_the_names_of_their_spaces() -> None:
    scores = [SpaceScore(space=SPACE_IMAGE, score=0.25), SpaceScore(space=SPACE_TEXT, score=-0.5)]
    hit = Hit(product=Product(id="7"), score=0.125, scores=scores)
    table = render.table(SearchResponse(hits=[hit]))
    assert isinstance(table, Table)
    columns = {column.header: [str(cell) for cell in column.cells] for column in table.columns}
    assert columns == {"": ["1"], "score": ["0.125"], "image": ["0.250"], "text": ["-0.500"], "id": ["7"]}


def test_the_line_below_names_every_space_with_its_share_and_the_policy_that_chose() -> None:
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


def test_explained_searches_tell_how_each_shard_looked() -> None:
    exact = SearchPlan(shard=0, space=SPACE_IMAGE, documents=60_000, matching=200)
    codes = SearchPlan(
        shard=1,
        space=SPACE_TEXT,
        documents=60_000,
        matching=6_000,
        recipe="IVF,PQ4fs",
        depth=145,
        search_parameter=32,
        candidates=1160,
    )
    lines = str(render.provenance(Provenance(plans=[exact, codes]))).splitlines()
    assert lines[1:] == [
        "shard 0, image: 200 of 60,000 vectors pass · each compared",
        "shard 1, text: 6,000 of 60,000 vectors pass · IVF,PQ4fs, 145 deep, search_parameter 32, 1,160 candidates",
    ]


def test_prices_show_decimals_where_there_are_some() -> None:
    prices = [Product(price=1234567, currency="JPY"), Product(price=0.5, currency="EUR"), Product()]
    assert [render.price(product) for product in prices] == ["1,234,567 JPY", "0.50 EUR", "0"]
