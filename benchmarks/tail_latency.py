"""Simulated: the tail of a search's latency by the number of shards, with replicas and hedged calls. NumPy, seeded.

A search goes to all shards at once, and takes as long as the slowest ("The Tail at Scale", Dean and Barroso, 2013).
Here a shard has two replicas, each a first-come-first-served queue. Searches arrive at random (Poisson) so that a
replica is busy for `--load` of the time. A call's service time is log-normal, through the measured median and p99 of a
search of 1,000,000 vectors (`results/ngt_comparison_1000000_graphs.json`), or drawn from the calls of a real shard that
`benchmarks.shard_latency` measured (`--measured`). Now and then a replica stalls for 50 to 500 ms, as in a compaction
or the load of a version. A hedged call goes to the other replica, too, once it has taken longer than the p95 or p99 of
calls without stalls; hedges are bounded by a budget of 5 % of a shard's calls, of which 100 may be saved; a loser is
cancelled, unless it has begun.

The last row is a gateway as it is: the replica with the fewest calls outstanding, hedges after the p95 and no sooner
than 5 ms, of which ten are saved. Left out of all: batches that form under load (a shard takes less CPU per query
then), the network, the gateway's own work, the latencies by which it chooses a replica, too, stalls of many replicas at
once.

    python -m benchmarks.tail_latency [--load 0.3] [--stall-every-s 120] [--searches 20000] [--measured FILE]

Writes results/tail_latency.json and .png. With `--measured` it also compares 1, 2 and 4 shards on two cores, simulated,
with what `benchmarks.shard_latency` measured of them; there the gateway's work is simulated, too.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.meter import RESULTS, write

F64 = npt.NDArray[np.float64]

SHARDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PERCENTILES = {"p50_ms": 50, "p99_ms": 99, "p99_9_ms": 99.9}
SERVICE_RECIPE = "PCAR256,IVF,RaBitQfs"
_QUANTILES = 2_000
_STALL_MS = (50.0, 500.0)
_GATEWAY_MIN_HEDGE_MS, _GATEWAY_HEDGES_SAVED = 5.0, 10.0  # server/replica_health.py
_OUTSTANDING = 64  # Calls of a replica that are counted; more are as bad.
_WARM_UP_SHARE = 0.05  # Of the searches: the queues are empty at first.


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What is simulated. Times in milliseconds."""

    service_ms: F64  # A sample of the service time.
    load: float  # Busy share of each replica, stalls and hedges not counted.
    replicas: int = 2
    stall_every_ms: float = 120_000.0  # Of each replica, on average; infinite: never.
    pick: str = "random"  # Or "fewest": the replica with the fewest calls outstanding.
    hedge_after_ms: float = float("inf")  # From the call; infinite: never.
    hedge_budget: float = 0.05  # Of a shard's calls; up to `hedges_saved` are kept for bad moments.
    hedges_saved: float = 100.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """latency_ms (searches, shards): of each call; extra_load: service time of hedges, by that of all calls."""

    latency_ms: F64
    hedged: float  # Share of the calls.
    extra_load: float

    def of_searches(self, shards: int) -> F64:
        """Latencies of searches over this many shards: the maximum in each disjoint group of that many."""
        groups = self.latency_ms.shape[1] // shards
        slowest: F64 = self.latency_ms[:, : groups * shards].reshape(-1, groups, shards).max(axis=2)
        return slowest.ravel()


def simulate(fleet: Fleet, *, shards: int, searches: int, seed: int) -> Outcome:
    """Call `shards` independent shards for each search. Every search arrives everywhere at the same time."""
    random = np.random.default_rng(seed)
    gap_ms = float(fleet.service_ms.mean()) / (fleet.load * fleet.replicas)
    arrivals = random.exponential(gap_ms, searches).cumsum()
    queues = _Queues(fleet, shards, arrivals[-1] * 1.2 + 10 * _STALL_MS[1], random)
    latency_ms = np.empty((searches, shards))
    everywhere = np.arange(shards)
    hedges = _Hedges(queues, latency_ms, arrivals)
    total_ms = 0.0
    for number, now_ms in enumerate(arrivals):
        hedges.send_due(now_ms)
        replica = queues.pick(now_ms)
        service_ms = queues.draw(shards)
        begin_ms, end_ms = queues.enqueue(everywhere, replica, now_ms, service_ms)
        latency_ms[number] = end_ms - now_ms
        total_ms += float(service_ms.sum())
        hedges.tokens = np.minimum(hedges.tokens + fleet.hedge_budget, fleet.hedges_saved)
        if fleet.replicas > 1:
            for shard in np.flatnonzero(latency_ms[number] > fleet.hedge_after_ms):
                call = number, int(shard), int(replica[shard]), float(begin_ms[shard]), float(end_ms[shard])
                heapq.heappush(hedges.waiting, (now_ms + fleet.hedge_after_ms, *call))
    hedges.send_due(float("inf"))
    steady = latency_ms[int(searches * _WARM_UP_SHARE) :]
    extra_load = hedges.extra_ms / total_ms
    return Outcome(latency_ms=steady, hedged=hedges.sent / (searches * shards), extra_load=extra_load)


class _Hedges:
    """Calls that will be late, the budget of each shard, and what the hedges that were sent took."""

    def __init__(self, queues: _Queues, latency_ms: F64, arrivals: F64) -> None:
        self.tokens = np.full(len(queues.free_ms), queues.fleet.hedges_saved)
        self.waiting: list[tuple[float, int, int, int, float, float]] = []  # When, search, shard, replica, begin, end.
        self.sent, self.extra_ms = 0, 0.0
        self._queues, self._latency_ms, self._arrivals = queues, latency_ms, arrivals

    def send_due(self, now_ms: float) -> None:
        while self.waiting and self.waiting[0][0] <= now_ms:
            self._send(*heapq.heappop(self.waiting))

    def _send(  # noqa: PLR0917  # what the heap has
        self, now_ms: float, number: int, shard: int, replica: int, first_begin_ms: float, first_end_ms: float
    ) -> None:
        """Send a late call to another replica, if the budget allows."""
        if self.tokens[shard] < 1:
            return
        self.tokens[shard] -= 1
        self.sent += 1
        queues, other = self._queues, (replica + 1) % self._queues.fleet.replicas
        if max(float(queues.free_ms[shard, other]), now_ms) >= first_end_ms:
            return  # The first ends while the hedge waits, which is then cancelled.
        one, service_ms = np.array([shard]), queues.draw(1)
        _, ends_ms = queues.enqueue(one, np.array([other]), now_ms, service_ms)
        end_ms = float(ends_ms[0])
        self.extra_ms += float(service_ms[0])
        if end_ms < first_end_ms:
            self._latency_ms[number, shard] = end_ms - self._arrivals[number]
            if first_begin_ms >= end_ms:  # It had not begun. Those that wait behind it already keep their times.
                queues.free_ms[shard, replica] -= first_end_ms - first_begin_ms
                self.extra_ms -= first_end_ms - first_begin_ms


class _Queues:
    """One queue for each replica of each shard: when it will be free, and when it stalls."""

    def __init__(self, fleet: Fleet, shards: int, until_ms: float, random: np.random.Generator) -> None:
        self.fleet = fleet
        self.free_ms = np.zeros((shards, fleet.replicas))
        self._random = random
        count = 1 if np.isinf(fleet.stall_every_ms) else int(until_ms / fleet.stall_every_ms * 2) + 20
        shape = (shards, fleet.replicas, count)
        gaps = random.exponential(min(fleet.stall_every_ms, 1e15), shape)
        took = random.uniform(*_STALL_MS, shape)
        self._stalls_from = (gaps + np.concatenate([np.zeros((*shape[:2], 1)), took[..., :-1]], axis=2)).cumsum(axis=2)
        self._stalls_to = self._stalls_from + took
        self._next = np.zeros((shards, fleet.replicas), dtype=np.int64)
        self._ends_ms = np.zeros((shards, fleet.replicas, _OUTSTANDING))  # Of the last calls, in a ring.
        self._called = np.zeros((shards, fleet.replicas), dtype=np.int64)

    def draw(self, count: int) -> F64:
        return self._random.choice(self.fleet.service_ms, count)

    def pick(self, now_ms: float) -> npt.NDArray[np.int64]:
        """The replica of each shard for a call. A caller knows what it waits for, and not when that will end."""
        picked = self._random.integers(0, self.fleet.replicas, len(self.free_ms))
        if self.fleet.pick == "random":
            return picked
        outstanding = (self._ends_ms > now_ms).sum(axis=2)
        rows = np.arange(len(picked))
        least = outstanding.argmin(axis=1)
        return np.where(outstanding[rows, least] < outstanding[rows, picked], least, picked)

    def begin(self, shards: npt.NDArray[np.int64], replica: npt.NDArray[np.int64], now_ms: float) -> F64:
        """When a call that arrives now would begin."""
        free_ms = np.maximum(self.free_ms[shards, replica], now_ms)
        return self._after_stall(shards, replica, free_ms)

    def enqueue(
        self, shards: npt.NDArray[np.int64], replica: npt.NDArray[np.int64], now_ms: float, service_ms: F64
    ) -> tuple[F64, F64]:
        """Append a call to each of these queues; returns when they begin and end. A stall delays what runs."""
        begin_ms = self.begin(shards, replica, now_ms)
        end_ms = begin_ms + service_ms
        at = self._next[shards, replica]
        stall_ms = self._stalls_from[shards, replica, at]
        hit = (stall_ms >= begin_ms) & (stall_ms < end_ms)
        end_ms = np.where(hit, end_ms + self._stalls_to[shards, replica, at] - stall_ms, end_ms)
        self._next[shards, replica] = at + hit
        self.free_ms[shards, replica] = end_ms
        self._ends_ms[shards, replica, self._called[shards, replica] % _OUTSTANDING] = end_ms
        self._called[shards, replica] += 1
        return begin_ms, end_ms

    def _after_stall(self, shards: npt.NDArray[np.int64], replica: npt.NDArray[np.int64], free_ms: F64) -> F64:
        at = self._next[shards, replica]
        over = self._stalls_to[shards, replica, at] <= free_ms  # It fell into a time without calls.
        while over.any():
            at = at + over
            over = self._stalls_to[shards, replica, at] <= free_ms
        self._next[shards, replica] = at
        inside = self._stalls_from[shards, replica, at] <= free_ms
        return np.where(inside, self._stalls_to[shards, replica, at], free_ms)


def on_shared_cores(
    service_ms: F64, gateway_ms: float, *, shards: int, cores: int, per_s: float, searches: int, seed: int
) -> F64:
    """Latencies (searches,) where the gateway and all shards of one machine share its cores, and nothing stalls.

    A core takes the next task when it is free. gateway_ms: of the gateway and its client for a search, half of it
    before the shards are asked and half after the last has answered.
    """
    random = np.random.default_rng(seed)
    arrivals = random.exponential(1e3 / per_s, searches).cumsum()
    took_ms = random.choice(service_ms, (searches, shards))
    free_ms = np.zeros(cores)

    def run(from_ms: float, task_ms: float) -> float:
        core = free_ms.argmin()
        free_ms[core] = max(free_ms[core], from_ms) + task_ms
        return float(free_ms[core])

    latency_ms = np.empty(searches)
    for number, now_ms in enumerate(arrivals):
        asked_ms = run(now_ms, gateway_ms / 2)
        answered_ms = max(run(asked_ms, each) for each in took_ms[number])
        latency_ms[number] = run(answered_ms, gateway_ms / 2) - now_ms
    return latency_ms


def percentiles(latency_ms: F64) -> dict[str, float]:
    return {name: round(float(np.percentile(latency_ms, share)), 2) for name, share in PERCENTILES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.3, help="busy share of a replica (default: %(default)s)")
    parser.add_argument("--stall-every-s", type=float, default=120, help="of a replica (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=20_000)
    parser.add_argument("--measured", type=Path, metavar="FILE", help="a result of benchmarks.shard_latency")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text()) if options.measured else {}
    service_ms, source = measured_service(measured) if measured else log_normal_service()
    base = {"service_ms": service_ms, "load": options.load, "stall_every_ms": options.stall_every_s * 1e3}
    hedge_ms = {
        (pick, share): float(np.percentile(_healthy(service_ms, options.load, pick, options.seed), share))
        for pick, share in (("random", 95), ("random", 99), ("fewest", 95), ("fewest", 99))
    }
    fleets = {}
    for pick, name in (("random", "random replica"), ("fewest", "fewest outstanding")):
        fleets[name] = Fleet(**base, pick=pick)
        for share in (95, 99):
            hedged = Fleet(**base, pick=pick, hedge_after_ms=hedge_ms[pick, share])
            fleets[f"{name}, hedged after p{share}"] = hedged
    hedge_ms["gateway", 95] = max(hedge_ms["fewest", 95], _GATEWAY_MIN_HEDGE_MS)
    fleets["as the gateway does"] = Fleet(
        **base, pick="fewest", hedge_after_ms=hedge_ms["gateway", 95], hedges_saved=_GATEWAY_HEDGES_SAVED
    )
    rows: dict[str, Any] = {}
    for name, fleet in fleets.items():
        outcome = simulate(fleet, shards=max(SHARDS), searches=options.searches, seed=options.seed)
        by_shards = {str(shards): percentiles(outcome.of_searches(shards)) for shards in SHARDS}
        rows[name] = {
            "hedged_share_of_calls": round(outcome.hedged, 4),
            "extra_load": round(outcome.extra_load, 4),
            "by_shards": by_shards,
        }
        print(name, rows[name]["extra_load"], by_shards["1"], by_shards["256"])
    result = {
        "simulated": f"{options.searches} searches, 2 replicas busy for {options.load} of the time, "
        f"a stall of 50 to 500 ms every {options.stall_every_s} s of each, seed {options.seed}",
        "service_time": source,
        "hedge_after_ms": {f"{pick}, p{share}": round(each, 3) for (pick, share), each in hedge_ms.items()},
        "rows": rows,
        **({"measured_beside_simulated": validate(measured, options.seed)} if measured else {}),
        "caveats": "a simulation; no batches, network or gateway's own work, except where measured beside simulated",
    }
    print(write("tail_latency", result))
    plot(rows)


def measured_service(measured: dict[str, Any]) -> tuple[F64, str]:
    """Service times in ms, and what they are: those of the calls of one real shard."""
    service = measured["service_time"]
    return np.array(service["quantiles_ms"]), f"{service['calls']} calls of a shard of {measured['vectors']}"


def log_normal_service() -> tuple[F64, str]:
    """The same, through the median and p99 of a query's own CPU time among 1,000,000 vectors."""
    rows = json.loads((RESULTS / "ngt_comparison_1000000_graphs.json").read_text())["rows"]
    (row,) = [each for each in rows if (each["contender"], each["recall_target"]) == (SERVICE_RECIPE, 0.95)]
    return log_normal(row["p50_ms"], row["p99_ms"]), (
        f"log-normal: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, of {SERVICE_RECIPE} at recall@10 {row['recall']} "
        "among 1,000,000 x 1024, CPU of one core"
    )


def log_normal(p50: float, p99: float) -> F64:
    """Quantiles of the log-normal distribution with this median and p99, at even steps."""
    normal = NormalDist()
    deviation = np.log(p99 / p50) / normal.inv_cdf(0.99)
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    quantiles: F64 = p50 * np.exp(deviation * np.array([normal.inv_cdf(share) for share in shares]))
    return quantiles


def _healthy(service_ms: F64, load: float, pick: str, seed: int) -> F64:
    """Latencies of calls without stalls, whose p95 says when to hedge."""
    fleet = Fleet(service_ms=service_ms, load=load, stall_every_ms=float("inf"), pick=pick)
    return simulate(fleet, shards=8, searches=10_000, seed=seed).latency_ms.ravel()


def validate(measured: dict[str, Any], seed: int) -> dict[str, Any]:
    """The open loop of `shard_latency` beside the model of two shared cores, by number of shards.

    What gateway and client take with one shard is the median through the gateway less that of the shard; with more
    shards it grows as the gateway's CPU does, one query in flight.
    """
    service_ms = np.array(measured["service_time"]["quantiles_ms"])
    rows = measured["by_shards"]
    with_one_ms = rows["1"]["open loop"]["p50_ms"] - float(np.median(service_ms))
    cpu_us = {shards: row["1 in flight"]["gateway_cpu_us"] for shards, row in rows.items()}
    compared = {}
    for shards, row in rows.items():
        latency_ms = on_shared_cores(
            service_ms,
            with_one_ms * cpu_us[shards] / cpu_us["1"],
            shards=int(shards),
            cores=2,
            per_s=measured["rate_per_s"],
            searches=40_000,
            seed=seed,
        )
        simulated = percentiles(latency_ms)
        compared[shards] = {
            name: {
                "measured": row["open loop"][name],
                "simulated": simulated[name],
                "measured_over_simulated": round(row["open loop"][name] / simulated[name], 2),
            }
            for name in ("p50_ms", "p99_ms")
        }
    return compared


def plot(rows: dict[str, Any]) -> None:
    """Write results/tail_latency.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    titles: Sequence[str] = ("p50", "p99", "p99.9")
    for panel, figure_name, title in zip(panels, PERCENTILES, titles, strict=True):
        for name, row in rows.items():
            by_shards = row["by_shards"]
            style = {"95": "--", "99": ":"}.get(name[-2:], "-")
            panel.plot([*map(int, by_shards)], [each[figure_name] for each in by_shards.values()], style, label=name)
        panel.set(title=f"{title} of a search", xlabel="shards", xscale="log", yscale="log")
        panel.set_xticks(SHARDS, [*map(str, SHARDS)])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ms")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "tail_latency.png", dpi=90)


if __name__ == "__main__":
    main()
