"""Traces and request ids through real processes' parts: one call is one trace, whatever it is answered by."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from index.building.build import build
from index.serving.service import IndexShard
from index.serving.shard_version import open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.runtime import edge
from lookalike.runtime.otlp import MAX_WAITING, SPANS, SpanExporter
from lookalike.runtime.slow_log import SlowLog
from lookalike.runtime.telemetry import FIELDS, JsonFormatter
from lookalike.runtime.tracing import Span, TraceContext
from lookalike.v1.search_pb2 import BatchSearchRequest, Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_TEXT, Filter
from lookalike.vectors import pack
from tests.edges import IMPLEMENTATIONS
from tests.rpc.collectors import exported_to, running_collector
from tests.rpc.gateways import DIM, ScriptedTextEncoder, running_gateway, serving
from tests.rpc.spans import recorded_spans
from tests.unit.index.samples import TEXT, catalogue, serving_only, unit_vectors, vectors_of

if TYPE_CHECKING:
    from lookalike.v1.search_pb2_grpc import SimilarProductsAsyncStub as Stub  # In the stubs' types only.

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "shop=7"), ("x-request-id", "order-7"))
COUNT = 400
BY_TEXT = SearchRequest(examples=[Example(text="p07")], space=SPACE_TEXT, limit=3)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("index")
    vectors = vectors_of(unit_vectors(COUNT, DIM), encoder=ScriptedTextEncoder.fingerprint)
    build(where, catalogue(COUNT), {TEXT: vectors}, shards=2)
    return where


@pytest.fixture(params=IMPLEMENTATIONS)
def _edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "server", partial(edge.server, implementation=request.param))


@asynccontextmanager
async def a_system(location: Path, *, slow_s: float = 0.0, **settings: object) -> AsyncIterator[Stub]:
    """A gateway, two real shards and a text encoder, each behind a server of its own."""
    slots = Slots(threads=1, max_waiting=8)
    shards = []
    for number in range(2):
        served = serving_only(open_shard(location, number))
        slow = SlowLog(slow_s) if slow_s else None
        shards.append(IndexShard(slots, served, Writer(served, max_waiting=8), slow=slow).handler())
    try:
        async with (
            serving(shards[0]) as first,
            serving(shards[1]) as second,
            serving(ScriptedTextEncoder().handler()) as texts,
            running_gateway(
                {"shards": (first, second), "text_encoder": (texts,), "refresh_s": 0.05, "recall_sample": 0.0}
                | {"slow_query_s": slow_s}
                | settings
            ) as address,
            aio_channel(address) as channel,
        ):
            yield SimilarProductsStub(channel)
    finally:
        slots.close()


def paths(spans: Sequence[Span]) -> list[str]:
    """Each span after those that it is a part of."""
    by_id = {span.span_id: span for span in spans}

    def path(span: Span) -> str:
        parent = by_id.get(span.parent_id)
        return (path(parent) + " > " if parent else "") + span.name.rpartition(".")[2]

    return sorted(map(path, spans))


@pytest.mark.usefixtures("_edge")
async def test_a_search_is_one_trace_through_gateway_shards_and_text_encoder(location: Path) -> None:
    async with a_system(location) as stub, recorded_spans() as spans:
        await stub.Search(BY_TEXT, metadata=TRACED)
    assert {(span.trace_id, span.state) for span in spans} == {(TRACE, "shop=7")}
    call, to_shard = (
        "SimilarProducts/Search",
        "SimilarProducts/Search > search > search shard > call shard > IndexShard/Search",
    )
    encode = f"{call} > encode > ask text encoder > call replica > TextEncoder/Encode"
    found = paths(spans)
    assert [span.parent_id for span in spans if span.name.endswith(call)] == [CALLER]
    assert {encode, f"{call} > cache", f"{to_shard} > queue", f"{call} > search > merge"} <= {*found}
    assert found.count(f"{to_shard} > search > exact") == 2


async def test_what_a_span_says_has_no_content(location: Path) -> None:
    async with a_system(location) as stub, recorded_spans() as spans:
        await stub.Search(BY_TEXT, metadata=TRACED)
    (call,) = (span for span in spans if span.name.endswith("SimilarProducts/Search"))
    said = {key for span in spans for key in span.attributes}
    counts = {"items", "queries", "costly", "documents", "vectors", "hits", "shards_failed"}
    names = {"rpc.system", "rpc.grpc.status_code", "server.address", "release", "spaces", "cached"}
    assert said <= counts | names
    assert "p07" not in str([span.attributes for span in spans])
    assert call.attributes["rpc.grpc.status_code"] == 0


@pytest.mark.usefixtures("_edge")
async def test_searches_that_share_a_batch_keep_their_traces_which_are_linked(location: Path) -> None:
    requests = [SearchRequest(examples=[Example(vector=pack(each))], space=SPACE_TEXT) for each in unit_vectors(6, DIM)]
    async with a_system(location) as stub, recorded_spans(share=1.0) as spans:
        await asyncio.gather(*(stub.Search(each) for each in requests))
    searches = {span.context() for span in spans if span.name == "search" and span.parent_id in calls_of(spans)}
    batches = [span for span in spans if span.name == "search shard"]
    assert len({context.trace_id for context in searches}) == 6
    assert sum(1 + len(batch.links) for batch in batches) == 12
    assert {link for batch in batches for link in batch.links} <= searches
    linked = [span for span in spans if span.links and span.name == "search"]
    contexts = {batch.context() for batch in batches}
    assert {link for span in linked for link in span.links} <= contexts


def calls_of(spans: Sequence[Span]) -> set[str]:
    return {span.span_id for span in spans if span.name.endswith("SimilarProducts/Search")}


async def test_each_search_of_a_batch_is_a_part_of_the_call(location: Path) -> None:
    async with a_system(location) as stub, recorded_spans() as spans:
        await stub.BatchSearch(BatchSearchRequest(requests=[BY_TEXT, BY_TEXT]), metadata=TRACED)
    assert paths(spans).count("SimilarProducts/BatchSearch > search") == 2


async def test_a_cache_hit_says_so_in_its_span(location: Path) -> None:
    async with a_system(location) as stub:
        await stub.Search(BY_TEXT)
        await asyncio.sleep(0.05)
        async with recorded_spans() as spans:
            response = await stub.Search(BY_TEXT, metadata=TRACED)
    assert response.provenance.cached
    assert [span.attributes.get("cached") for span in spans if span.name.endswith("/Search")] == [True]


@pytest.mark.usefixtures("_edge")
async def test_a_traceparent_that_is_none_begins_a_trace_of_the_call(location: Path) -> None:
    bad = ["", "junk", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01", "00-" * 2000]
    async with a_system(location) as stub, recorded_spans(share=1.0) as spans:
        for traceparent in bad:
            await stub.Search(BY_TEXT, metadata=(("traceparent", traceparent),))
    calls = [span for span in spans if span.name.endswith("SimilarProducts/Search")]
    assert len({span.trace_id for span in calls}) == len(bad)
    assert {span.parent_id for span in calls} == {""}


async def test_spans_reach_a_collector(location: Path) -> None:
    with running_collector() as collector:
        async with a_system(location) as stub:
            with exported_to(collector):
                await stub.Search(BY_TEXT, metadata=TRACED)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    (call,) = (span for span in collector.spans if span.name.endswith("SimilarProducts/Search"))
    assert (call.parent_span_id.hex(), call.kind, call.trace_state) == (CALLER, call.SPAN_KIND_SERVER, "shop=7")
    assert call.start_time_unix_nano < call.end_time_unix_nano
    assert collector.resources[0].attributes[0].value.string_value == "test"


def test_spans_that_no_collector_takes_are_dropped_beyond_a_bound_and_hold_up_nobody() -> None:
    dropped, failed = (SPANS.labels(each)._value.get() for each in ("dropped", "failed"))
    exporter = SpanExporter("http://127.0.0.1:1", {})
    span = Span("a", TraceContext(TRACE, CALLER, True))
    began_s = time.thread_time()
    for _ in range(MAX_WAITING * 2):
        exporter.offer(span)
    assert time.thread_time() - began_s < 1.0
    exporter.close()
    lost = SPANS.labels("dropped")._value.get() - dropped + SPANS.labels("failed")._value.get() - failed
    assert lost >= MAX_WAITING


async def test_a_line_that_is_logged_in_a_call_names_it(location: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keep = Keep()
    keep.setFormatter(JsonFormatter("gateway"))
    logging.getLogger().addHandler(keep)
    try:
        async with a_system(location, slow_s=1e-9) as stub:
            await stub.Search(BY_TEXT, metadata=TRACED)
    finally:
        logging.getLogger().removeHandler(keep)
    entries = [entry for line in lines if (entry := json.loads(line))["message"].startswith("slow")]
    assert len(entries) == 3  # The gateway's, and one of each shard.
    assert {(each["request_id"], each["trace_id"], each["role"]) for each in entries} == {("order-7", TRACE, "gateway")}


async def test_a_slow_search_is_logged_with_where_the_time_went_and_no_content(
    location: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = SearchRequest(
        examples=[Example(text="p07")],
        space=SPACE_TEXT,
        limit=3,
        filter=Filter(category_in=["a-secret", "b"], any_of=[Filter(in_stock=True)]),
    )
    async with a_system(location, slow_s=1e-9) as stub:
        response = await stub.Search(search, metadata=TRACED)
    entries = {each.getMessage(): getattr(each, FIELDS) for each in caplog.records if each.name.endswith("slow_log")}
    slow = entries["slow search"]
    assert {name: slow[name] for name in ("method", "outcome", "cached", "spaces", "examples", "limit", "filter")} == {
        "method": "/lookalike.v1.SimilarProducts/Search",
        "outcome": "OK",
        "cached": False,
        "spaces": ["text"],
        "examples": {"text": 1},
        "limit": 3,
        "filter": {"category_in": 2, "any_of": [{"in_stock": 1}]},
    }
    assert slow["version"] == response.provenance.version
    assert len(slow["shards"]) == 2
    assert all(0 < each < slow["seconds"] for each in slow["shards"])
    assert {"encode", "search"} <= slow["stages"].keys()
    (query,) = entries["slow batch"]["queries"]
    assert (
        query["plans"] == [{"space": "text", "documents": COUNT // 2, "matching": 0, "search": "exact"}]
        or query["plans"]
    )
    assert query["filter"] == slow["filter"]
    assert "secret" not in f"{entries}"


async def test_nothing_is_logged_of_a_search_that_is_not_slow(location: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with a_system(location, slow_s=60.0) as stub:
        await stub.Search(BY_TEXT)
    assert not [each for each in caplog.records if each.name.endswith("slow_log")]
