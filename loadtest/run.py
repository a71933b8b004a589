"""`lookalike load`: load-test a gateway and compare its latency histograms with objectives. Network I/O."""

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
from loadtest.mix import KINDS
from lookalike.cli import flags
from lookalike.cli.arguments import number
from lookalike.cli.flags import DEFAULT_ADDRESS
from lookalike.client import Client
from lookalike.credentials import ApiKey, authorization
from lookalike.errors import BadSettings, Unavailable
from lookalike.runtime.histogram import Histogram, Labels, increase, parse_histograms

MAX_USERS = 256
MAX_SECONDS = 600.0
MAX_RATE = 5000.0
MAX_PAGE_BYTES = 16 << 20
OBJECTIVES = Path(__file__).with_name("slo.toml")
REQUESTS, STAGES = "lookalike_request_seconds", "lookalike_stage_seconds"

_EPILOG = """\
Only a gateway on this machine is loaded, unless --i-own-this-server is set.

exit status: 0 every objective is met; 1 one is missed, or the gateway failed; 2 an argument is wrong

examples:
  lookalike load
  lookalike load --seconds 10 --images photos/ --mix product=6,photo=2,text=2
  lookalike load --mix vector=1 --vectors image=queries.npy --slo my-slo.toml --json
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser(environ).parse_args(argv)
    for address in (options.address, urlsplit(options.metrics).netloc):
        _check_address(address, owned=options.i_own_this_server)
    objectives = slo.read(options.slo)
    load_plan, left_out = _plan_run(options)
    before = _scrape(options.metrics, flags.api_key(options))
    client_measurements = _run_users(load_plan, flags.api_key(options))
    after = _scrape(options.metrics, flags.api_key(options))
    requests = increase(before[REQUESTS], after[REQUESTS])
    result = report.LoadTestResult(
        plan=load_plan,
        client_measurements=client_measurements,
        left_out=left_out,
        requests=requests,
        stages=increase(before[STAGES], after[STAGES]),
        verdicts=slo.judge(objectives, requests, clients=slo.ClientTotals.of(client_measurements)),
    )
    if options.json:
        print(json.dumps(report.document(result), indent=2, ensure_ascii=False))
    else:
        report.show(result)
    return 1 if any(verdict.met is False for verdict in result.verdicts) else 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike load",
        description="Send a running gateway queries of every kind, popular products more often (Zipf), then compare\n"
        "the latencies in its Prometheus histograms with objectives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    address = environ.get("LOOKALIKE_ADDRESS", DEFAULT_ADDRESS)
    option("--address", metavar="HOST:PORT", default=address, help="the gateway [LOOKALIKE_ADDRESS, %(default)s]")
    metrics = environ.get("LOOKALIKE_METRICS", "http://127.0.0.1:9090/metrics")
    option(
        "--metrics", metavar="URL", default=metrics, help="its metrics page [LOOKALIKE_METRICS, default: %(default)s]"
    )
    flags.add_key_flag(parser, environ)
    option("--users", type=number(int, 1, MAX_USERS), default=16, help="concurrent users, at most 256 (%(default)s)")
    option("--seconds", type=number(float, 1, MAX_SECONDS), default=30.0, help="duration, at most 600 (%(default)g)")
    rate = "calls per second of all users together (%(default)g); 0: each calls again as soon as its response arrives"
    option("--rate", type=number(float, 0, MAX_RATE), default=40.0, help=rate)
    option("--images", metavar="DIR", type=Path, help="photos for queries; without it there are no photo queries")
    option("--vectors", metavar="SPACE=FILE.npy", help="vectors for queries, one per row, say image=queries.npy")
    mix = ",".join(f"{kind}={weight:g}" for kind, weight in KINDS.items())
    option("--mix", metavar="KIND=WEIGHT,…", help=f"kinds of query (default: those of {mix} that the gateway answers)")
    option("--slo", metavar="FILE", type=Path, default=OBJECTIVES, help="objectives (TOML; default: loadtest/slo.toml)")
    # The default is random: a repeated test with the same queries would be answered from the cache.
    option(
        "--seed", type=number(int, 0, 2**32), default=random.randrange(2**32), help="of the queries (default: random)"
    )
    option("--i-own-this-server", action="store_true", help="allow other addresses than this machine's own")
    option("--json", action="store_true", help="print the report as JSON")
    return parser


def _check_address(address: str, *, owned: bool) -> None:
    """Raise BadSettings unless `address` is HOST:PORT of this machine, or of a server that the caller owns."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.path or parts.username is not None:
        raise BadSettings(f"{address!r} is not HOST:PORT")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or owned):
        raise BadSettings(f"{address} is not on this machine: if the server is yours, set --i-own-this-server")


def _plan_run(options: argparse.Namespace) -> tuple[plan.LoadPlan, Mapping[str, str]]:
    """The plan, and the kinds of query that the gateway does not answer, with its reasons."""
    space, vectors = plan.parse_vectors(options.vectors)
    with Client(options.address, api_key=flags.api_key(options)) as client:
        draft = plan.LoadPlan(
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
        mix = discovery.answerable_mix(client, draft.read_inputs(), options.mix, options.seed)
    return dataclasses.replace(draft, mix=mix.weights), mix.left_out


def _run_users(load_plan: plan.LoadPlan, api_key: ApiKey | None) -> dict[str, Any]:
    """Run the users in a process of their own; returns their measurements. Raises Unavailable if it fails."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "plan.json"
        if token := api_key() if callable(api_key) else api_key:
            key_file = Path(directory) / "api-key"  # In a directory that nobody else can read.
            key_file.write_text(token, "ascii")
            load_plan = dataclasses.replace(load_plan, api_key_file=str(key_file))
        plan.write(load_plan, file)
        process = subprocess.run(  # noqa: S603  # this interpreter and a file of our own
            [sys.executable, "-m", "loadtest.users", str(file)],
            capture_output=True,
            text=True,
            timeout=load_plan.seconds + 120,
            check=False,
        )
    if process.returncode:
        raise Unavailable(f"the users could not run:\n{process.stderr.strip()}")
    measurements: dict[str, Any] = json.loads(process.stdout)
    return measurements


def _scrape(url: str, api_key: ApiKey | None) -> dict[str, dict[Labels, Histogram]]:
    """Read the gateway's two histograms from its metrics page. Raises BadSettings and Unavailable."""
    if urlsplit(url).scheme != "http":
        raise BadSettings(f"--metrics {url}: not an http:// address")
    page_request = urllib.request.Request(url)  # noqa: S310  # the scheme is checked above
    for name, value in authorization(api_key)() or ():
        page_request.add_unredirected_header(name, value)
    try:
        with urllib.request.urlopen(page_request, timeout=5) as reply:  # noqa: S310  # the scheme is checked above
            page = reply.read(MAX_PAGE_BYTES).decode()
        return {name: parse_histograms(page, name) for name in (REQUESTS, STAGES)}
    except (OSError, ValueError) as error:
        raise Unavailable(f"no metrics at {url}: {error}") from error
