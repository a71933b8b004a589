"""What counts as a failure of a fault, when all has healed, and which changes are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.faults.calls import TEXT_ENCODER, name_of
from benchmarks.faults.deployment import Shape
from benchmarks.faults.faults import Fault, chosen, faults, only_ones
from benchmarks.faults.load import OK, Record
from benchmarks.faults.oracle import Oracle
from benchmarks.faults.proxy import Mode, Proxy
from benchmarks.faults.report import Row, Timeline, row, seconds_to_heal, table
from lookalike.v1.types_pb2 import Product

TIMELINE = Timeline(began_s=0, injected_s=10, in_force_s=10.01, healed_s=20, ended_s=40)


def record(
    due_s: float, took_s: float = 0.01, status: str = OK, needs: frozenset[str] = frozenset(), coverage: float = 1.0
) -> Record:
    return Record(
        kind="id",
        needs=needs,
        due_s=due_s,
        sent_s=due_s,
        ended_s=due_s + took_s,
        status=status,
        coverage=coverage,
        is_stale=False,
    )


def steady() -> list[Record]:
    return [record(tenth / 10) for tenth in range(400)]


def fault(name: str, shape: Shape) -> Fault:
    (found,) = chosen(faults(shape, lambda _: None, lambda _: None), [name])
    return found


def row_of(name: str, records: Sequence[Record], *, replicas: int, lost: Sequence[str] = ()) -> Row:
    shape = Shape(replicas=replicas)
    return row(
        fault(name, shape),
        records,
        TIMELINE,
        only_ones=only_ones(shape),
        replicas=replicas,
        acknowledged=1,
        lost=lost,
    )


def test_what_the_only_replica_alone_could_answer_is_told_from_the_rest() -> None:
    records = [*steady(), *(record(15, status="Unavailable", needs=frozenset({name_of(shard)})) for shard in (0, 1))]
    found = row_of("kill-shard", records, replicas=1)
    assert (found.own_failed, found.failed) == ({"Unavailable": 1}, {"Unavailable": 1})
    assert not found.meets_target


def test_with_two_replicas_nothing_may_fail_or_be_partial() -> None:
    failed = record(15, status="Unavailable", needs=frozenset({name_of(0)}))
    assert row_of("kill-shard", [*steady(), failed], replicas=2).failed == {"Unavailable": 1}
    partial = row_of("kill-shard", [*steady(), record(15, coverage=0.5)], replicas=2)
    assert (partial.partial, partial.meets_target) == (1, False)
    assert row_of("kill-shard", steady(), replicas=2).meets_target


def test_a_lost_change_or_a_slow_answer_misses_the_target() -> None:
    assert not row_of("kill-shard", steady(), replicas=2, lost=["p"]).meets_target
    slow = [record(12 + tenth / 10, took_s=0.1) for tenth in range(10)]
    assert not row_of("kill-shard", [*steady(), *slow], replicas=2).meets_target


def test_calls_in_flight_at_a_gateway_that_is_killed_are_its_own_and_later_ones_are_not() -> None:
    in_flight = record(9.9, took_s=0.2, status="Unavailable")
    later = record(10.5, status="Unavailable")
    killed = row_of("kill-gateway", [*steady(), in_flight, later], replicas=2)
    assert (killed.own_failed, killed.failed) == ({"Unavailable": 1}, {"Unavailable": 1})
    assert row_of("term-gateway", [in_flight], replicas=2).failed == {"Unavailable": 1}  # It is to answer them.


def test_a_single_text_encoder_fails_what_needs_it_and_nothing_else() -> None:
    found = row_of(
        "stop-text-encoder", [*steady(), record(15, status="Unavailable", needs=frozenset({TEXT_ENCODER}))], replicas=2
    )
    assert (found.own_failed, found.failed) == ({"Unavailable": 1}, {})


def test_all_has_healed_with_the_first_two_seconds_that_are_as_before() -> None:
    assert seconds_to_heal(steady(), TIMELINE) == 0
    assert seconds_to_heal([*steady(), record(23, coverage=0.5)], TIMELINE) == 0
    assert seconds_to_heal([*steady(), record(21, coverage=0.5)], TIMELINE) == 1.25
    assert seconds_to_heal([*steady(), *(record(each, took_s=1) for each in range(20, 40))], TIMELINE) is None


def test_the_table_has_a_line_for_each_fault() -> None:
    lines = table([row_of("kill-shard", steady(), replicas=2)]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| kill-shard | 400 | 0 | 0 | 0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_an_older_revision_a_wrong_price_and_a_missing_product_are_violations() -> None:
    oracle = Oracle()
    for product_id in ("old", "wrong", "gone", "right"):
        for revision, price in ((1, 1.0), (2, 2.0)):
            oracle.sent(product_id, revision, price)
            oracle.answered(product_id, revision)
    found = {
        "old": Product(id="old", revision=1, price=1.0),
        "wrong": Product(id="wrong", revision=2, price=1.0),
        "gone": None,
        "right": Product(id="right", revision=2, price=2.0),
    }
    assert [each.split()[0] for each in oracle.violations(found)] == ["old", "wrong", "gone"]


def test_a_change_without_an_answer_may_have_been_made_or_not() -> None:
    oracle = Oracle()
    oracle.sent("p", 1, 1.0)
    oracle.answered("p", 1)
    oracle.sent("p", 2, None)  # A removal.
    assert oracle.violations({"p": Product(id="p", revision=1, price=1.0)}) == []
    assert oracle.violations({"p": None}) == []


async def test_a_proxy_passes_swallows_and_resets_what_it_is_told_to(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as upstream:
        proxy = Proxy(upstream.sockets[0].getsockname()[1])
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
            connect = partial(asyncio.open_connection, "127.0.0.1", server.sockets[0].getsockname()[1])
            reader, writer = await connect()
            writer.write(b"passed")
            assert await reader.readexactly(6) == b"passed"
            proxy.set_mode(Mode.DROP)
            writer.write(b"kept")
            with suppress(TimeoutError):
                assert await asyncio.wait_for(reader.read(4), 0.2) == b"never"
            proxy.set_mode(Mode.PASS)
            assert await reader.readexactly(4) == b"kept"
            proxy.set_mode(Mode.RESET)
            with suppress(ConnectionResetError):
                assert await reader.read(1) == b""
            writer.close()
