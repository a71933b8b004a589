"""One fault after the other under load: steady, the fault, its end, until all is as before. Starts and kills."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.calls import Calls
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.faults import Fault, only_ones
from benchmarks.faults.load import Load
from benchmarks.faults.oracle import Oracle, find_violations
from benchmarks.faults.report import Row, Timeline, row, seconds_to_heal

WARM_UP_S: Final = 3.0  # Of the calls before each fault: their latencies do not count, their failures do.
HEAL_S: Final = 45.0  # After which a fault counts as not healed.
KEPT_S: Final = 30.0  # In which replicas that were away get the changes that they have missed.


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A deployment under an open loop. seconds: before, during and, at least, after each fault."""

    deployment: Deployment
    calls: Calls
    oracle: Oracle
    per_s: float
    seconds: float
    seed: int

    def run(self, fault: Fault) -> tuple[Row, Counter[str]]:
        """Figures of the fault, and what failed calls said."""
        deployment, acknowledged = self.deployment, self.oracle.acknowledged
        if fault.is_proxied:
            deployment.use_proxies()
        load = Load(deployment.address, self.calls, seed=self.seed)
        with load.running(per_s=self.per_s):
            timeline = self._undergo(fault, load)
        lost = until_kept(deployment, self.oracle)
        found = row(
            fault,
            load.records,
            timeline,
            only_ones=only_ones(deployment.shape),
            replicas=deployment.shape.replicas,
            acknowledged=self.oracle.acknowledged - acknowledged,
            lost=lost,
        )
        return found, load.errors

    def _undergo(self, fault: Fault, load: Load) -> Timeline:
        time.sleep(WARM_UP_S)
        began_s = time.perf_counter()
        time.sleep(self.seconds)
        injected_s = time.perf_counter()
        fault.inject(self.deployment)
        in_force_s = time.perf_counter()
        time.sleep(max(0.0, injected_s + self.seconds - in_force_s))
        healed_s = time.perf_counter()
        fault.heal(self.deployment)
        self.deployment.wait_ready()
        while True:
            time.sleep(1)
            timeline = Timeline(
                began_s=began_s,
                injected_s=injected_s,
                in_force_s=in_force_s,
                healed_s=healed_s,
                ended_s=time.perf_counter(),
            )
            since_s = timeline.ended_s - healed_s
            is_healed = since_s > self.seconds and seconds_to_heal(load.records, timeline) is not None
            if is_healed or since_s > HEAL_S:
                return timeline


def until_kept(deployment: Deployment, oracle: Oracle) -> Sequence[str]:
    """What replicas lack of acknowledged changes, once they have had time to get it from each other."""
    give_up_s = time.monotonic() + KEPT_S
    while lost := find_violations(oracle, deployment.replicas(), deployment.shape.shards):
        if time.monotonic() > give_up_s:
            break
        time.sleep(0.2)
    return lost
