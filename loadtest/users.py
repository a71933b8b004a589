"""Locust users that send searches to a gateway: a locustfile, and the process that `lookalike load` starts.

    locust -f loadtest/users.py --host 127.0.0.1:50051                                        with Locust's web page
    locust -f loadtest/users.py --host 127.0.0.1:50051 --headless -u 16 -r 16 -t 30s --images photos/
    python -m loadtest.users PLAN.json                               as `lookalike load` starts it; prints JSON

A process of its own because Locust patches the interpreter: sockets and threads become gevent's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
import grpc.experimental.gevent
from locust import User, constant, constant_throughput, events, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest import discovery
from loadtest.mix import KINDS, QueryGenerator, QueryInputs
from loadtest.plan import LoadPlan, find_photos, parse_vectors, read, read_vectors
from lookalike.client import Client
from lookalike.credentials import key_of
from lookalike.errors import BadSettings, LookalikeError

grpc.experimental.gevent.init_gevent()

DRAIN_S = 10.0  # Calls in flight at the end are awaited: an aborted one would count as a failure of the server.
_STOP_AFTER_S = 1.0
RATE_PER_USER = 2.5  # As by default in `lookalike load`: 16 users, 40 calls per second.


@dataclass(frozen=True, kw_only=True)
class Target:
    """The gateway that all users search, and what their queries are made of."""

    client: Client
    inputs: QueryInputs
    mix: Mapping[str, float]
    seeds: itertools.count[int]  # Of each user's queries.


class Shopper(User):
    """Sends one query after another, of a kind drawn from the mix."""

    target: ClassVar[Target | None] = None  # None: the gateway is unusable.
    end_s: ClassVar[float] = float("inf")  # On perf_counter's clock: a user stops then.
    queries: QueryGenerator | None = None

    @task
    def search(self) -> None:
        if self.target is None or perf_counter() >= self.end_s:
            raise StopUser
        self.queries = self.queries or QueryGenerator(self.target.inputs, self.target.mix, seed=next(self.target.seeds))
        kind, query = self.queries.next()
        start_s, error = perf_counter(), None
        try:
            self.target.client.search(**query)
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


def _set_target(target: Target, *, rate_per_user: float) -> None:
    """Let all users search the target. With a rate of 0 each calls again as soon as its response arrives."""
    Shopper.target = target
    Shopper.wait_time = constant_throughput(rate_per_user) if rate_per_user else constant(0)


@events.init_command_line_parser.add_listener
def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `locust -f loadtest/users.py`; they are on Locust's web page, too."""
    option = parser.add_argument
    option("--images", metavar="DIR", default="", help="photos for queries; without it there are no photo queries")
    option("--vectors", metavar="SPACE=FILE.npy", default="", help="vectors for queries, say image=queries.npy")
    mix = ",".join(f"{kind}={weight:g}" for kind, weight in KINDS.items())
    option(
        "--mix",
        metavar="KIND=WEIGHT,…",
        default="",
        help=f"kinds of query (default: those of {mix} that the gateway answers)",
    )
    option("--api-key-file", metavar="FILE", default="", help="the API key to call with")
    option("--rate-per-user", type=float, default=RATE_PER_USER, help="calls per second; 0: no limit (%(default)s)")
    option("--query-seed", type=int, default=-1, help="of the queries; -1: random")


@events.test_start.add_listener
def _on_test_start(environment: Any, **_: Any) -> None:
    """Under `locust`: find out what the gateway can be queried for, or stop the test and report why it cannot be."""
    if (options := environment.parsed_options) is None:  # Started by `run` below.
        return
    try:
        _set_target(_discover_target(_address(environment.host or ""), options), rate_per_user=options.rate_per_user)
    except LookalikeError as error:
        if environment.web_ui is None:
            sys.exit(f"error: {error}")
        Shopper.target = None
        # Later, once the users have been spawned: they have no target and do nothing.
        gevent.spawn_later(_STOP_AFTER_S, environment.runner.stop)
        environment.events.request.fire(
            request_type="Search", name="first", response_time=0, response_length=0, exception=error, context={}
        )


@events.test_stop.add_listener
def _on_test_stop(environment: Any, **_: Any) -> None:
    if environment.parsed_options is not None and Shopper.target is not None:
        Shopper.target.client.close()


def _discover_target(address: str, options: argparse.Namespace) -> Target:
    """List the gateway's products, and try every kind of query. Raises LookalikeError."""
    seed = random.randrange(2**32) if options.query_seed < 0 else options.query_seed
    space, vectors = parse_vectors(options.vectors)
    photos = find_photos(Path(options.images)) if options.images else []
    client = Client(address, api_key=key_of("", options.api_key_file))
    try:
        inputs = QueryInputs(
            products=discovery.list_products(client),
            photos=[Path(photo).read_bytes() for photo in photos],
            vectors=read_vectors(Path(vectors)) if vectors else None,
            vector_space=space,
        )
        mix = discovery.answerable_mix(client, inputs, options.mix or None, seed)
    except LookalikeError:
        client.close()
        raise
    for kind, reason in mix.left_out.items():
        print(f"{kind} queries are left out: {reason}", file=sys.stderr)
    return Target(client=client, inputs=inputs, mix=mix.weights, seeds=itertools.count(seed))


def _address(host: str) -> str:
    """host:port of Locust's --host, which may be written like a URL. Raises BadSettings."""
    address = urlsplit(host).netloc if "://" in host else host
    if ":" not in address:
        raise BadSettings(f"--host {host!r}: write HOST:PORT of a gateway, say 127.0.0.1:50051")
    return address


def run(plan: LoadPlan) -> dict[str, Any]:
    """Send queries for `plan.seconds`; returns the users' measurements, by kind of query."""
    environment = Environment(user_classes=[Shopper], stop_timeout=DRAIN_S)
    with Client(plan.address, api_key=key_of("", plan.api_key_file)) as client:
        target = Target(client=client, inputs=plan.read_inputs(), mix=plan.mix, seeds=itertools.count(plan.seed))
        _set_target(target, rate_per_user=plan.rate / plan.users)
        runner = environment.create_local_runner()
        gevent.get_hub().loop.update_now()  # Its clock stood still while no greenlet waited, as during the imports.
        start_s = perf_counter()
        # Users stop by themselves, a moment before the runner stops them: Locust aborts the call of a user that was
        # waiting when the runner stopped it, but began a call before the stop took effect.
        Shopper.end_s = start_s + plan.seconds
        runner.start(plan.users, spawn_rate=plan.users)
        gevent.spawn_later(plan.seconds + 0.1, runner.quit)
        runner.greenlet.join()
        seconds = perf_counter() - start_s
    return {
        "seconds": seconds,
        "kinds": {name: _summary(entry) for (name, _), entry in sorted(environment.stats.entries.items())},
        "errors": [
            {"kind": failure.name, "error": str(failure.error), "times": failure.occurrences}
            for failure in sorted(environment.stats.errors.values(), key=lambda failure: -failure.occurrences)
        ],
    }


def _summary(entry: Any) -> dict[str, float]:
    return {
        "calls": entry.num_requests,
        "failed": entry.num_failures,
        "p50_s": entry.get_response_time_percentile(0.5) / 1000,
        "p99_s": entry.get_response_time_percentile(0.99) / 1000,
    }


if __name__ == "__main__":
    print(json.dumps(run(read(Path(sys.argv[1])))))
