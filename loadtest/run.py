"""`lookalike load`: load a gateway for a bounded time and hold its own histograms against objectives. Network I/O."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import random
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest import discovery, plan, report, slo
from loadtest.histogram import Histogram, Labels, added, parsed
from loadtest.mix import KINDS
from lookalike.cli.arguments import number
from lookalike.cli.flags import DEFAULT_ADDRESS
from lookalike.client import Client
from lookalike.errors import BadSettings, Unavailable

MAX_USERS = 256
MAX_SECONDS = 600.0
MAX_RATE = 5000.0
MAX_PAGE_BYTES = 16 << 20
OBJECTIVES = Path(__file__).with_name("slo.toml")
REQUESTS, STAGES = "lookalike_request_seconds", "lookalike_stage_seconds"

_EPILOG = """\
Loads 127.0.0.1 only, unless told that the server is yours. Exit status: 0 every objective is met, 1 one is missed (or
the gateway failed), 2 the command was not understood.

examples:
  lookalike load
  lookalike load --seconds 10 --images photos/ --mix product=6,photo=2,text=2
  lookalike load --mix vector=1 --vectors image=queries.npy --slo my-slo.toml --json
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser(environ).parse_args(argv)
    for place in (options.address, urlsplit(options.metrics).netloc):
        _check_place(place, owned=options.i_own_this_server)
    objectives = slo.read(options.slo)
    made, left_out = _plan_run(options)
    before = _scraped(options.metrics)
    seen = _made(made)
    after = _scraped(options.metrics)
    gained = added(before[REQUESTS], after[REQUESTS])
    run = report.Run(
        plan=made,
        seen=seen,
        left_out=left_out,
        requests=gained,
        stages=added(before[STAGES], after[STAGES]),
        verdicts=slo.judge(objectives, gained, seen=slo.Seen.of(seen)),
    )
    if options.json:
        print(json.dumps(report.document(run), indent=2, ensure_ascii=False))
    else:
        report.show(run)
    return 1 if any(verdict.met is False for verdict in run.verdicts) else 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike load",
        description="Ask a running gateway every kind of query, popular products more often (Zipf), then read from\n"
        "its Prometheus histograms what that took and hold it against objectives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    address = environ.get("LOOKALIKE_ADDRESS", DEFAULT_ADDRESS)
    option("--address", metavar="HOST:PORT", default=address, help="the gateway [LOOKALIKE_ADDRESS, %(default)s]")
    metrics = environ.get("LOOKALIKE_METRICS", "http://127.0.0.1:9090/metrics")
    option("--metrics", metavar="URL", default=metrics, help="its metrics [LOOKALIKE_METRICS, default: %(default)s]")
    option("--users", type=number(int, 1, MAX_USERS), default=16, help="at once, at most 256 (%(default)s)")
    option("--seconds", type=number(float, 1, MAX_SECONDS), default=30.0, help="at most 600 (%(default)g)")
    rate = "calls per second of all users together (%(default)g); 0: each asks again as soon as it is answered"
    option("--rate", type=number(float, 0, MAX_RATE), default=40.0, help=rate)
    option("--images", metavar="DIR", type=Path, help="photos to ask with; without it there are no photo queries")
    option("--vectors", metavar="SPACE=FILE.npy", help="vectors to ask with, one per row, say image=queries.npy")
    mix = ",".join(f"{kind}={weight:g}" for kind, weight in KINDS.items())
    option("--mix", metavar="KIND=WEIGHT,…", help=f"kinds of query; unless given, what the gateway answers of {mix}")
    option("--slo", metavar="FILE", type=Path, default=OBJECTIVES, help="objectives (TOML; default: loadtest/slo.toml)")
    # Drawn unless given: the same questions again would all come from the cache.
    option("--seed", type=number(int, 0, 2**32), default=random.randrange(2**32), help="of the questions; default: any")
    option("--i-own-this-server", action="store_true", help="allow other addresses than this machine's own")
    option("--json", action="store_true", help="print the report as JSON")
    return parser


def _check_place(place: str, *, owned: bool) -> None:
    """Raises BadSettings unless `place` is a host and port of this machine, or its owner takes it upon them."""
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.path or parts.username is not None:
        raise BadSettings(f"{place!r} is not HOST:PORT")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or owned):
        raise BadSettings(f"{place} is not on this machine: load only what is yours, then say --i-own-this-server")


def _plan_run(options: argparse.Namespace) -> tuple[plan.Plan, Mapping[str, str]]:
    """The plan, and the kinds of query that the gateway cannot answer with its reasons."""
    space, vectors = plan.parse_vectors(options.vectors)
    with Client(options.address) as client:
        draft = plan.Plan(
            address=options.address,
            users=options.users,
            seconds=options.seconds,
            rate=options.rate,
            seed=options.seed,
            mix={},
            products=discovery.list_products(client),
            photos=plan.find_photos(options.images) if options.images else (),
            vectors=vectors,
            vector_space=space,
        )
        mix = discovery.answerable_mix(client, draft.sample(), options.mix, options.seed)
    return dataclasses.replace(draft, mix=mix.weights), mix.left_out


def _made(made: plan.Plan) -> dict[str, Any]:
    """What the users saw. They are a process of their own, and end when it does."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "plan.json"
        plan.write(made, file)
        finished = subprocess.run(  # noqa: S603  # this interpreter and a file of our own
            [sys.executable, "-m", "loadtest.users", str(file)],
            capture_output=True,
            text=True,
            timeout=made.seconds + 120,
            check=False,
        )
    if finished.returncode:
        raise Unavailable(f"the load could not be made:\n{finished.stderr.strip()}")
    seen: dict[str, Any] = json.loads(finished.stdout)
    return seen


def _scraped(url: str) -> dict[str, dict[Labels, Histogram]]:
    """The gateway's two histograms. Raises Unavailable."""
    if urlsplit(url).scheme != "http":
        raise BadSettings(f"--metrics {url}: not an http:// address")
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # the scheme is checked above
            page = reply.read(MAX_PAGE_BYTES).decode()
        return {name: parsed(page, name) for name in (REQUESTS, STAGES)}
    except (OSError, ValueError) as error:
        raise Unavailable(f"no metrics at {url}: {error}") from error
