"""The users: a process of its own that asks a gateway as planned, with Locust, and prints what they saw as JSON.

    python -m loadtest.users PLAN.json

A process of its own because Locust patches the interpreter: sockets and threads become gevent's.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import gevent
import grpc.experimental.gevent
from locust import User, constant, constant_throughput, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest.mix import Asker, Sample
from loadtest.plan import Plan, read
from lookalike.client import Client
from lookalike.errors import LookalikeError

grpc.experimental.gevent.init_gevent()

DRAIN_S = 10.0  # Calls under way at the end are awaited: one that is broken off would count as a failure of the server.


class Shopper(User):
    plan: ClassVar[Plan]
    sample: ClassVar[Sample]
    client: ClassVar[Client]
    numbers: ClassVar[itertools.count[int]]
    end_s: ClassVar[float]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._asker = Asker(self.sample, self.plan.mix, seed=self.plan.seed + next(self.numbers))

    @task
    def ask(self) -> None:
        if perf_counter() >= self.end_s:
            raise StopUser
        kind, question = self._asker.next()
        start_s, error = perf_counter(), None
        try:
            self.client.search(**question)
        except LookalikeError as failure:
            error = failure
        self.environment.events.request.fire(
            request_type="Search",
            name=kind,
            response_time=(perf_counter() - start_s) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


def run(plan: Plan) -> dict[str, Any]:
    """Ask for `plan.seconds`; what was seen, by kind of query."""
    Shopper.plan, Shopper.sample, Shopper.numbers = plan, plan.sample(), itertools.count()
    Shopper.wait_time = constant_throughput(plan.rate / plan.users) if plan.rate else constant(0)
    environment = Environment(user_classes=[Shopper], stop_timeout=DRAIN_S)
    with Client(plan.address) as client:
        Shopper.client = client
        runner = environment.create_local_runner()
        gevent.get_hub().loop.update_now()  # Its clock stands still while no greenlet waits: during the imports, say.
        start_s = perf_counter()
        # Users end by themselves, a moment before they are told to: Locust breaks off the call of a user that was
        # waiting when it was told, but woke up before it obeyed.
        Shopper.end_s = start_s + plan.seconds
        runner.start(plan.users, spawn_rate=plan.users)
        gevent.spawn_later(plan.seconds + 0.1, runner.quit)
        runner.greenlet.join()
        seconds = perf_counter() - start_s
    return {
        "seconds": seconds,
        "kinds": {name: _seen(entry) for (name, _), entry in sorted(environment.stats.entries.items())},
        "errors": [
            {"kind": failure.name, "error": str(failure.error), "times": failure.occurrences}
            for failure in sorted(environment.stats.errors.values(), key=lambda failure: -failure.occurrences)
        ],
    }


def _seen(entry: Any) -> dict[str, float]:
    return {
        "calls": entry.num_requests,
        "failed": entry.num_failures,
        "p50_s": entry.get_response_time_percentile(0.5) / 1000,
        "p99_s": entry.get_response_time_percentile(0.99) / 1000,
    }


if __name__ == "__main__":
    print(json.dumps(run(read(Path(sys.argv[1])))))
