"""Nights in a row under load of every kind: does a release change fail a call, mix releases, or lose a change?

A shop of drawn products is served by processes: gateway, three shards, two text encoders, a model server. Callers
search by id, photo, title and both, classify, upsert products that are encoded and patch others, each kind at a rate of
its own (open loop: a latency counts from when the call was due). Meanwhile, night after night, `lookalike update` runs
with changed products and encoders trained anew:

1. an ordinary night
2. a halved catalogue: the gate is to refuse it
3. an ordinary night, which `versions use` takes back afterwards
4. an ordinary night, with another number of shards
5. another ordinary night

Every answer must be complete and of the encoders of one release, no call may fail, and in the end every product is what
its last answered change made it. Latencies are those of three phases: steady; while an update computes; and from when
CURRENT changes until all processes have dropped the old version. The exit status is 1 if anything failed.

With `--kill-every`, a shard, a text encoder or the update is killed (SIGKILL) now and then, and started again. Calls
that were under way while a process was down may fail or be partial, and are counted apart; all else must hold.

    python -m benchmarks.release [--products N] [--calls N] [--weights FILE] [--kill-every SECONDS] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.meter import COMMAND, write
from lookalike.client import AsyncClient, Client
from lookalike.demo.sample.command import draw_catalogue
from lookalike.errors import LookalikeError
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.process_specs import ROOT
from lookalike.local.supervisor import Supervisor
from lookalike.releases import version
from lookalike.requests import example
from lookalike.spaces import space_name
from lookalike.v1.search_pb2 import SearchResponse
from lookalike.v1.types_pb2 import Product

# Calls a second of each kind: some 140 in all, about half of what the two cores of this machine give.
RATES = {"id": 50.0, "text": 35.0, "mixed": 8.0, "photo": 3.0, "classify": 15.0, "upsert": 3.0, "patch": 25.0}
DEADLINE_S = 20.0  # Of a call: longer than any is meant to take, so that a late one is seen as late.
SHARDS = 3  # Processes; a version of two leaves one idle.
REFUSED = 3  # Exit status of `update`: the gate.
WAIT_S = 300.0


@dataclass(slots=True)
class Tally:
    """What the calls met."""

    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)  # By kind, phase and what was said.
    held: Counter[str] = field(default_factory=Counter)  # Failed or partial while a process was down.
    partial: Counter[str] = field(default_factory=Counter)  # Answers with less than full coverage.
    mixed: Counter[str] = field(default_factory=Counter)  # Answers by encoders that are not those of one release.
    degraded: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    took_s: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))


class Shop:
    """The products, night by night, and what callers change of them by day."""

    def __init__(self, folder: Path, products: int, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)  # repeatable
        draw_catalogue(folder / "0", products=products, seed=seed)
        lines = (folder / "0" / "products.jsonl").read_text(encoding="utf-8").splitlines()
        self._rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.lasting = [str(row["id"]) for row in self._rows[: products // 2]]  # No night removes them.
        self.titles = [str(row["title"]) for row in self._rows if row["title"]]
        photos = [folder / "0" / str(row["image"]) for row in self._rows[:64] if row.get("image")]
        self.photos = [photo.read_bytes() for photo in photos if photo.exists()]
        self._nights = 0

    def first(self) -> Path:
        return self._folder / "0"

    def next_night(self, *, halved: bool = False) -> Path:
        """The catalogue of the next night: a twentieth of titles are others, some products are gone and some new."""
        self._nights += 1
        rows = []
        for row in self._rows:
            drawn, lasts = self._random.random(), row["id"] in self.lasting
            if drawn < 0.03 and not lasts:
                continue
            if drawn < 0.08:
                rows.append(row | {"title": f"{row['title']} {self._nights}"})
            else:
                rows.append(row)
            if drawn > 0.97:
                rows.append(row | {"id": f"{row['id']}-{self._nights}"})
        if halved:
            rows = rows[: len(rows) // 2]
        else:
            self._rows = rows
        directory = self._folder / str(self._nights)
        directory.mkdir()
        shutil.copytree(self._folder / "0" / "images", directory / "images", copy_function=os.link)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / "products.jsonl").write_text(text, encoding="utf-8")
        return directory


class Callers(threading.Thread):
    """Makes calls of every kind until it is stopped."""

    def __init__(self, address: str, shop: Shop, encoders_of: Callable[[str], dict[str, str]]) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self.phase = "start"
        self.written: dict[str, tuple[str, float]] = {}  # Title (empty: the catalogue's) and price, by id.
        self.uncertain = set[str]()  # Products of which a change was not answered.
        self.down = ""  # The process that was killed and is not back yet.
        self._address, self._shop, self._encoders_of = address, shop, encoders_of
        self._stopping = threading.Event()
        self._revision = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._call())
        except BaseException as error:  # Reported by `stop`.
            self._error = error
            raise

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        if self._error is not None:
            raise RuntimeError("the callers failed") from self._error

    async def _call(self) -> None:
        kinds: dict[str, Callable[[AsyncClient, int], Awaitable[object]]] = {
            "id": self._by_id,
            "text": self._by_text,
            "mixed": self._by_both,
            "photo": self._by_photo,
            "classify": self._classify,
            "upsert": self._upsert,
            "patch": self._patch,
        }
        async with AsyncClient(self._address, timeout_s=DEADLINE_S) as client:
            await asyncio.gather(*(self._loop(client, kind, call) for kind, call in kinds.items()))

    async def _loop(
        self, client: AsyncClient, kind: str, call: Callable[[AsyncClient, int], Awaitable[object]]
    ) -> None:
        """Calls of one kind, each due at its time, whether the one before has ended or not."""
        gaps, due_s = np.random.default_rng(len(kind)), time.perf_counter()
        running = set[asyncio.Task[None]]()
        for number in itertools.count():
            if self._stopping.is_set():
                break
            due_s += float(gaps.exponential(1 / RATES[kind]))
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            task = asyncio.create_task(self._one(client, kind, call, number, due_s))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _one(
        self,
        client: AsyncClient,
        kind: str,
        call: Callable[[AsyncClient, int], Awaitable[object]],
        number: int,
        due_s: float,
    ) -> None:
        phase, down = self.phase, self.down
        try:
            answer = await call(client, number)
        except LookalikeError as error:
            if down := down or self.down:
                self.tally.held[f"{kind}, {down} down: {type(error).__name__}"] += 1
            else:
                self.tally.failed[f"{kind}, {phase}: {type(error).__name__}: {error}"] += 1
        else:
            self.tally.took_s[kind, phase].append(time.perf_counter() - due_s)
            if isinstance(answer, SearchResponse):
                self._check(kind, answer, down or self.down)
        self.tally.calls[kind] += 1

    def _check(self, kind: str, answer: SearchResponse, down: str) -> None:
        provenance, tally = answer.provenance, self.tally
        tally.versions[provenance.version] += 1
        if provenance.coverage < 1 and down:
            tally.held[f"{kind}, {down} down: partial"] += 1
        elif provenance.coverage < 1:
            tally.partial[f"{kind}, {self.phase}: {provenance.coverage:.3f}: {'; '.join(provenance.degraded)}"] += 1
        for reason in provenance.degraded:
            tally.degraded[reason] += 1
        used = {space_name(each.space): each.encoder for each in provenance.spaces}
        if not used.items() <= self._encoders_of(provenance.version).items():
            tally.mixed[f"{kind}, {self.phase}: version {provenance.version} answered by {used}"] += 1

    async def _by_id(self, client: AsyncClient, number: int) -> object:
        return await client.search(product_id=self._shop.lasting[number * 7 % len(self._shop.lasting)], limit=10)

    async def _by_text(self, client: AsyncClient, number: int) -> object:
        return await client.search(text=self._title(number), limit=10)

    async def _by_both(self, client: AsyncClient, number: int) -> object:
        product_id = self._shop.lasting[number * 3 % len(self._shop.lasting)]
        examples = [example(product_id=product_id), example(text=self._title(number), weight=0.5)]
        return await client.search(examples=examples, limit=10)

    async def _by_photo(self, client: AsyncClient, number: int) -> object:
        return await client.search(image=self._photo(number), limit=10)

    async def _classify(self, client: AsyncClient, number: int) -> object:
        if number % 2:
            return await client.classify(text=self._title(number))
        return await client.classify(product_id=self._shop.lasting[number % len(self._shop.lasting)])

    async def _upsert(self, client: AsyncClient, number: int) -> object:
        product = Product(id=f"w{number % 200}", category="home", title=self._title(number), price=float(number))
        product.currency = "EUR"
        return await self._change(
            product.id,
            (product.title, product.price),
            lambda revision: client.upsert(
                product, revision=revision, image=self._photo(number), encode=True, timeout_s=DEADLINE_S
            ),
        )

    async def _patch(self, client: AsyncClient, number: int) -> object:
        product_id, price = self._shop.lasting[number % len(self._shop.lasting)], float(number + 1)
        return await self._change(
            product_id, ("", price), lambda revision: client.patch(product_id, revision=revision, price=price)
        )

    async def _change(
        self, product_id: str, state: tuple[str, float], change: Callable[[int], Awaitable[Any]]
    ) -> object:
        """A change and, if it was answered, what it made of the product."""
        self._revision += 1
        revision = self._revision
        try:
            answer = await change(revision)
        except LookalikeError:
            self.uncertain.add(product_id)
            raise
        if answer.applied:  # Else a later change has overtaken it.
            self.written[product_id] = state
        return answer

    def _title(self, number: int) -> str:
        return self._shop.titles[number * 11 % len(self._shop.titles)]

    def _photo(self, number: int) -> bytes:
        return self._shop.photos[number % len(self._shop.photos)]


class Killer:
    """Kills a shard, a text encoder or the update every so often, and starts it again; call `step` often."""

    def __init__(self, system: System, callers: Callers, processes: Supervisor, every_s: float, seed: int) -> None:
        self.update: subprocess.Popen[str] | None = None  # The one that runs.
        self.kills = Counter[str]()
        self._system, self._callers, self._processes = system, callers, processes
        self._every_s = every_s  # 0: nothing is killed.
        self._random = random.Random(seed)  # repeatable
        self._due_s = self._next_s()
        self._back_at_s = 0.0  # When gateways have polled what was started again.

    def step(self) -> None:
        """Kill what is due, or see whether what was killed is back."""
        now_s = time.monotonic()
        if down := self._callers.down:
            if not self._system.is_ready(down):
                self._back_at_s = now_s + 5
            elif now_s > self._back_at_s:
                self._callers.down = ""
            return
        if not self._every_s or now_s < self._due_s:
            return
        self._due_s = self._next_s()
        name = self._random.choice([*(each for each in self._system.commands if each != "gateway"), "update", "update"])
        if name != "update":
            self._callers.down = name
            self._processes.kill(name)
            self._system.start_one(name)
            self._back_at_s = now_s + 5
        elif self.update is None or self.update.poll() is not None:
            return
        else:
            self.update.kill()
        self.kills[name] += 1

    def recover(self) -> None:
        """Return when nothing is down."""
        every_s, self._every_s = self._every_s, 0
        wait_until(lambda: not self._callers.down, f"{self._callers.down} is not back", self.step)
        self._every_s = every_s

    def _next_s(self) -> float:
        return time.monotonic() + self._random.uniform(0.5, 1.5) * self._every_s


class System:
    """The processes that serve the index, and the commands that change it."""

    def __init__(self, folder: Path, processes: Supervisor) -> None:
        self.index, self._models, self.folder = folder / "index", folder / "models", folder
        self._processes = processes
        self._encoders: dict[str, dict[str, str]] = {}
        names = ["model server", "text encoder 0", "text encoder 1", *(f"shard {i}" for i in range(SHARDS)), "gateway"]
        self._ports = dict(zip(names, free_ports(2 * len(names)), strict=False))
        self._metrics = dict(zip(names, free_ports(2 * len(names))[len(names) :], strict=False))
        self.commands = {name: self._command(name) for name in names}

    @property
    def gateway(self) -> str:
        return f"127.0.0.1:{self._ports['gateway']}"

    def start(self) -> None:
        for name in self.commands:
            self.start_one(name)
        self._processes.wait_ready(timeout_s=WAIT_S)

    def start_one(self, name: str) -> None:
        self._processes.start(name, self.commands[name], ready=lambda: self.is_ready(name))

    def is_ready(self, name: str) -> bool:
        return is_serving(f"127.0.0.1:{self._ports[name]}")

    def export_model(self, weights: str) -> None:
        small = ["--alpha", "0.25", "--input-px", "64"] if weights == "untrained" else []
        export = ["encoders", "export", str(self._models), "--weights", weights, *small]
        self._processes.run("export", [*COMMAND, *export])

    def start_model_server(self) -> None:
        self.start_one("model server")
        self._processes.wait_ready(timeout_s=WAIT_S)
        self.commands.pop("model server")

    def update(self, catalogue: Path, *arguments: str, served: bool = True) -> subprocess.Popen[str]:
        """Begin an update, at the lowest priority: it would run on another machine."""
        command = [*COMMAND, "update", str(catalogue), str(self.index), "--keep-text-encoder", "never", *arguments]
        command += ["--model-server", f"127.0.0.1:{self._ports['model server']}"]
        if served:
            command += ["--gateway", self.gateway]
        log = (self.folder / f"{catalogue.name}.log").open("a")
        lowest = shutil.which("nice") or "nice"
        return subprocess.Popen([lowest, "-n", "19", *command], cwd=ROOT, stdout=log, stderr=log, text=True)  # noqa: S603

    def use(self, name: str) -> None:
        self._processes.run("use", [*COMMAND, "versions", "use", str(self.index), name])

    def encoders_of(self, name: str) -> dict[str, str]:
        """The encoder of each space of a version."""
        if name not in self._encoders:
            manifest = version.read_manifest(self.index, name)
            self._encoders[name] = {space.name: space.encoder for space in manifest.spaces}
        return self._encoders[name]

    def _command(self, name: str) -> Sequence[str]:
        role, _, number = name.rpartition(" ") if name[-1].isdigit() else (name, "", "")
        common = ["--port", str(self._ports[name]), "--metrics-port", str(self._metrics[name])]
        follow = ["--location", str(self.index), "--poll-s", "1", "--lease-s", "5"]
        match role:
            case "model server":
                return [*COMMAND, "serve", "model-server", "--models", str(self._models), *common]
            case "text encoder":
                return [*COMMAND, "serve", "text-encoder", *follow, *common]
            case "shard":
                live = ["--shard", number, "--live-dir", str(self.folder / "live")]
                return [*COMMAND, "serve", "shard", *follow, *live, *common]
        addresses = {each: f"127.0.0.1:{port}" for each, port in self._ports.items()}
        shards = ",".join(addresses[f"shard {i}"] for i in range(SHARDS))
        texts = ",".join(addresses[f"text encoder {i}"] for i in range(2))
        servers = ["--shards", shards, "--text-encoder", texts, "--model-server", addresses["model server"]]
        return [*COMMAND, "serve", "gateway", *servers, *common]


def served_version(address: str) -> str:
    """The version that the gateway's searches are answered by."""
    with Client(address) as client:
        product = next(iter(client.list(limit=1)))
        return client.search(product_id=product.id, limit=1).provenance.version


def wait_until(condition: Callable[[], bool], what: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        meanwhile()
        if time.monotonic() > give_up_s:
            raise TimeoutError(what)
        time.sleep(0.2)


def rest(seconds: float, meanwhile: Callable[[], None]) -> None:
    until_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until_s, "time stands still", meanwhile)


@contextmanager
def phase(callers: Callers, name: str) -> Iterator[None]:
    callers.phase, before = name, callers.phase
    try:
        yield
    finally:
        callers.phase = before


def run_update(system: System, callers: Callers, killer: Killer, update: subprocess.Popen[str], before: str) -> int:
    """Wait for an update; its calls are of the phase `update` until CURRENT changes, then of `change`."""
    with phase(callers, "update"):
        while update.poll() is None:
            killer.step()
            if callers.phase == "update" and version.read_current(system.index) != before:
                callers.phase = "change"
            time.sleep(0.1)
        if version.read_current(system.index) != before:
            callers.phase = "change"
            killer.recover()
            settle(system)
    return update.returncode


def settle(system: System) -> None:
    """Wait until the gateway has moved to CURRENT and the old version's leases have passed."""
    current = version.read_current(system.index)
    wait_until(lambda: served_version(system.gateway) == current, f"version {current} is not served")
    time.sleep(10)


def audit(system: System, callers: Callers) -> list[str]:
    """The products that are not what their last answered change made them, and those found by no vector."""
    wrong = []
    with Client(system.gateway, timeout_s=DEADLINE_S) as client:
        for product_id, (title, price) in sorted(callers.written.items()):
            if product_id in callers.uncertain:
                continue
            product = client.get(product_id)
            if product.price != price or (title and product.title != title.strip()):  # As products are stored.
                wrong.append(f"{product_id}: {product.title!r}, {product.price}; expected {title!r}, {price}")
            elif product_id.startswith("w") and set(client.vectors(product_id)) < {"image", "text"}:
                wrong.append(f"{product_id}: has vectors only in {sorted(client.vectors(product_id))}")
    return wrong


def latencies(tally: Tally) -> dict[str, dict[str, dict[str, float]]]:
    """p50 and p99 in ms by kind and phase, with the number of calls."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for (kind, name), took_s in sorted(tally.took_s.items()):
        if name != "start":
            p50, p99 = np.percentile(took_s, [50, 99]) * 1000
            rows.setdefault(kind, {})[name] = {"calls": len(took_s), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1200)
    parser.add_argument("--calls", type=int, default=100_000, help="at least so many, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", default="untrained", help="MobileNet's, a file; default: a small untrained network"
    )
    parser.add_argument(
        "--kill-every", type=float, default=0, metavar="SECONDS", help="on average; 0: nothing is killed"
    )
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as temporary:
        return run(options, options.folder or Path(temporary))


def nights(system: System, shop: Shop, callers: Callers, killer: Killer, note: Callable[[str], None]) -> None:
    """The five nights. Raises RuntimeError for one that ends otherwise than it should."""
    history = [version.read_current(system.index)]
    for night in range(1, 6):
        halved, shards = night == 2, 3 if night >= 4 else 2
        catalogue, status = shop.next_night(halved=halved), -signal.SIGKILL
        while status == -signal.SIGKILL:  # Killed: the next one goes on.
            killer.update = system.update(catalogue, "--shards", str(shards))
            status = run_update(system, callers, killer, killer.update, history[-1])
        current = version.read_current(system.index)
        note(f"night {night}: exit status {status}, CURRENT {current}, before {history[-1]}")
        if status != (REFUSED if halved else 0) or (current == history[-1]) is not halved:
            raise RuntimeError(f"night {night} went wrong: {(system.folder / f'{night}.log').read_text()[-3000:]}")
        if not halved:
            history.append(current)
        if night == 3:  # Back to the release before.
            killer.recover()
            with phase(callers, "change"):
                system.use(history[-2])
                history.append(history[-2])
                settle(system)
            note(f"night {night}: taken back to {history[-1]}")
        callers.phase = "steady"
        rest(20, killer.step)


def run(options: argparse.Namespace, folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    shop, events = Shop(folder / "shop", options.products, options.seed), list[str]()

    def note(line: str) -> None:
        events.append(line)
        print(f"{time.strftime('%X')} {line}", flush=True)

    with Supervisor(folder / "logs", {}, directory=ROOT) as processes:
        system = System(folder, processes)
        system.export_model(options.weights)
        system.start_model_server()
        first = system.update(shop.first(), "--shards", "2", served=False)
        if first.wait():
            raise RuntimeError(f"the first update failed: {(folder / '0.log').read_text()[-2000:]}")
        system.start()
        callers = Callers(system.gateway, shop, system.encoders_of)
        callers.start()
        time.sleep(10)
        callers.phase = "steady"
        time.sleep(30)
        killer = Killer(system, callers, processes, options.kill_every, options.seed)
        nights(system, shop, callers, killer, note)
        killer.recover()
        while sum(callers.tally.calls.values()) < options.calls:
            time.sleep(1)
        callers.stop()
        wrong = audit(system, callers)
    tally = callers.tally
    result = {
        "products": options.products,
        "calls": dict(tally.calls),
        "all_calls": sum(tally.calls.values()),
        "failed": dict(tally.failed),
        "partial": dict(tally.partial),
        "kills": dict(killer.kills),
        "failed_or_partial_while_down": dict(tally.held),
        "mixed": dict(tally.mixed),
        "degraded": dict(tally.degraded),
        "answers_by_version": dict(tally.versions),
        "products_checked": len(callers.written),
        "wrong_products": wrong,
        "latencies": latencies(tally),
        "events": events,
        "caveats": "callers, all serving processes and the update (at nice 19) share two cores of a shared machine",
    }
    print(write("release_kills" if options.kill_every else "release", result))
    print(json.dumps({key: result[key] for key in ("all_calls", "failed", "partial", "mixed", "degraded")}, indent=1))
    return 1 if tally.failed or tally.partial or tally.mixed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
