"""The watch after publishing: whether gateways moved, and whether they are well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lookalike.errors import BadSettings
from pipeline.gateway_metrics import Reading
from pipeline.release_watch import Baseline, Outcome, WatchSettings, WatchVerdict, watch_release
from tests.unit.pipeline.gateway_pages import GatewayPage

Event = Callable[["Fleet"], None]


class Fleet:
    """Two gateways, with callers; a script says what happens at which second. It is the clock, too."""

    def __init__(self) -> None:
        self.gateways = {"a": GatewayPage("v1"), "b": GatewayPage("v1")}
        self.silent: set[str] = set()
        self.per_second: Callable[[GatewayPage], None] = lambda gateway: gateway.search(20)
        self.script: dict[int, Event] = {}
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.run(seconds)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now_s += 1
            if (event := self.script.get(int(self.now_s))) is not None:
                event(self)
            for gateway in self.gateways.values():
                self.per_second(gateway)

    async def read(self) -> Reading:
        texts = {name: each.text() for name, each in self.gateways.items() if name not in self.silent}
        return Reading.of(texts, dict.fromkeys(self.silent, "refused"))

    async def baseline(self) -> Baseline:
        """Ten minutes of ordinary service."""
        start = await self.read()
        self.run(600)
        self.now_s = 0
        return Baseline(start=start, end=await self.read())

    async def watch(self, baseline: Baseline, **settings: Any) -> WatchVerdict:
        return await watch_release(
            WatchSettings(metrics=("http://gateway:9090/metrics",), **settings),
            baseline,
            "v2",
            read=self.read,
            clock=self.clock,
            sleep=self.sleep,
        )


def move(*names: str, version: str = "v2") -> Event:
    def do(fleet: Fleet) -> None:
        for name in names:
            fleet.gateways[name].serve(version)

    return do


async def watched(script: dict[int, Event], **settings: Any) -> tuple[Fleet, WatchVerdict]:
    fleet = Fleet()
    baseline = await fleet.baseline()
    fleet.script = script
    return fleet, await fleet.watch(baseline, **settings)


async def test_a_release_to_which_all_move_and_that_changes_nothing_is_ok_after_the_whole_watch() -> None:
    fleet, verdict = await watched({25: move("a"), 45: move("b")})
    assert (verdict.outcome, verdict.reasons) == (Outcome.OK, ())
    assert verdict.watched_s == 600
    assert fleet.now_s == 50 + 600
    assert verdict.unjudged == []


async def test_a_gateway_that_does_not_move_in_time_is_named() -> None:
    fleet, verdict = await watched({25: move("a")}, move_timeout_s=120)
    assert (verdict.outcome, verdict.reasons) == (Outcome.NOT_MOVED, ("b serves v1, not v2",))
    assert fleet.now_s == 120


async def test_a_gateway_that_goes_back_by_itself_during_the_watch_has_not_moved() -> None:
    _, verdict = await watched({25: move("a", "b"), 200: move("b", version="v1")})
    assert (verdict.outcome, verdict.reasons) == (Outcome.NOT_MOVED, ("b serves v1, not v2",))


async def test_calls_that_fail_after_the_move_end_the_watch_at_once_with_the_figures() -> None:
    def break_down(fleet: Fleet) -> None:
        def fail(gateway: GatewayPage) -> None:
            gateway.search(15)
            gateway.search(5, outcome="FAILED_PRECONDITION")

        fleet.per_second = fail

    fleet, verdict = await watched({25: move("a", "b"), 95: break_down})
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    (reason,) = verdict.reasons
    assert reason.startswith("Search: FAILED_PRECONDITION: 0.00% of 24000 before, ")
    assert reason.endswith("allowed: 0.10% more")
    assert fleet.now_s == 100


async def test_calls_that_fail_while_gateways_move_count_and_are_not_forgotten_after_it() -> None:
    def fail(fleet: Fleet) -> None:
        for gateway in fleet.gateways.values():
            gateway.search(40, outcome="UNAVAILABLE")

    _, verdict = await watched({5: fail}, move_timeout_s=120)
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    assert verdict.watched_s == 0
    assert verdict.reasons[0].startswith("Search: UNAVAILABLE: ")


async def test_a_figure_that_is_worse_from_the_move_on_is_told() -> None:
    def slower(fleet: Fleet) -> None:
        move("a", "b")(fleet)
        fleet.per_second = lambda gateway: gateway.search(20, seconds=0.06)

    _, verdict = await watched({25: slower})
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    assert any(reason.startswith("Search image: p50: ") for reason in verdict.reasons)


async def test_recall_that_a_gateway_finds_too_low_is_out_of_bounds() -> None:
    def recall(found: float, *, short: bool) -> Event:
        return lambda fleet: fleet.gateways["b"].recall(0.95, found, short=short)

    _, verdict = await watched({25: move("a", "b"), 60: recall(0.94, short=False), 300: recall(0.8, short=True)})
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    (reason,) = verdict.reasons
    assert "online recall@10 of image" in reason
    assert verdict.watched_s > 250


async def test_too_little_traffic_is_said_and_is_no_failure() -> None:
    fleet = Fleet()
    fleet.per_second = lambda _: None
    baseline = await fleet.baseline()
    fleet.script = {25: move("a", "b")}
    fleet.per_second = lambda gateway: gateway.search(1)
    verdict = await fleet.watch(baseline)
    assert verdict.outcome is Outcome.OK
    assert verdict.unjudged
    assert all("not enough traffic to judge" in sentence for sentence in verdict.unjudged)


async def test_a_gateway_that_restarts_during_the_watch_is_no_failure() -> None:
    def restart(fleet: Fleet) -> None:
        fleet.gateways["b"] = GatewayPage("", started_s=2000.0)  # It has not reached its shards yet.

    script = {25: move("a", "b"), 100: restart, 120: move("b"), 95: silence("b"), 115: answer("b")}
    _, verdict = await watched(script)
    assert (verdict.outcome, verdict.reasons) == (Outcome.OK, ())


def silence(name: str) -> Event:
    return lambda fleet: fleet.silent.add(name)


def answer(name: str) -> Event:
    return lambda fleet: fleet.silent.discard(name)


async def test_a_gateway_that_stays_silent_after_the_move_is_out_of_bounds() -> None:
    """One that a release brings down answers no call, and counts none either."""
    fleet, verdict = await watched({25: move("a", "b"), 95: silence("b")}, max_silent_readings=3)
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    assert verdict.reasons == ("b answered before the release, and not in 3 readings since: refused",)
    assert fleet.now_s == 120


async def test_a_gateway_that_never_answered_holds_up_the_move_and_is_named() -> None:
    fleet = Fleet()
    fleet.silent = {"b"}
    baseline = await fleet.baseline()
    fleet.script = {5: move("a")}
    verdict = await fleet.watch(baseline, move_timeout_s=100)
    assert (verdict.outcome, verdict.reasons) == (Outcome.NOT_MOVED, ("b does not answer: refused",))


async def test_another_process_may_watch_with_readings_that_were_kept_as_text() -> None:
    fleet = Fleet()
    fleet.silent = {"b"}
    reading = await fleet.read()
    assert Reading.load(reading.dump()) == reading


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"metrics": ()}, "name the metrics page of every gateway"),
        ({"metrics": ("gateway:9090",)}, "--metrics gateway:9090: not http://HOST:PORT/metrics"),
        ({"metrics": ("ftp://gateway/metrics",)}, "not http://"),
        ({"metrics": ("http://gateway:port/metrics",)}, "not http://"),
        ({"metrics": ("http://g/metrics",), "interval_s": 0.0}, "above 0 s"),
        ({"metrics": ("http://g/metrics",), "max_silent_readings": 0}, "max_silent_readings"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        WatchSettings(**settings)
