"""The index that the processes serve, in two versions, and what calls ask of it. Runs commands, writes files."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.faults.calls import Samples
from benchmarks.meter import COMMAND
from benchmarks.release import Shop
from lookalike.client import Client
from lookalike.errors import NotFound
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.releases import version

SPACE = "image"
_IDS = 300
_READY_S = 180.0


class BuiltShop:
    """A drawn catalogue in `folder`, its index in two versions, and the untrained image model that made its vectors.

    What is in the folder is built no more.
    """

    def __init__(self, folder: Path, *, products: int, shards: int, seed: int) -> None:
        self._folder, self._shards = folder, shards
        self._facts = folder / "facts.json"
        self._inputs = {"products": products, "shards": shards, "seed": seed}

    def build(self, processes: Supervisor) -> None:
        if self._facts.exists() and json.loads(self._facts.read_text())["inputs"] == self._inputs:
            return
        if self._folder.exists() and any(self._folder.iterdir()):
            raise FileExistsError(f"{self._folder}: has another shop, or none; a new one needs a folder of its own")
        self._folder.mkdir(parents=True, exist_ok=True)
        shop = Shop(self._folder / "shop", self._inputs["products"], self._inputs["seed"])
        models, (port,) = self._folder / "models", free_ports(1)
        small = ["--weights", "untrained", "--alpha", "0.25", "--input-px", "64"]
        processes.run("export", [*COMMAND, "encoders", "export", str(models), *small])
        server = [*COMMAND, "serve", "model-server", "--models", str(models), "--port", str(port)]
        processes.start("building model server", server, ready=partial(is_serving, f"127.0.0.1:{port}"))
        processes.wait_ready(timeout_s=_READY_S)
        versions = []
        for catalogue in (shop.first(), shop.next_night()):
            words = ["--shards", str(self._shards), "--model-server", f"127.0.0.1:{port}"]
            processes.run("update", [*COMMAND, "update", str(catalogue), str(self.location), *words])
            versions.append(version.read_current(self.location))
        processes.kill("building model server")
        (self._folder / "photos").mkdir()
        for number, photo in enumerate(shop.photos):
            (self._folder / "photos" / f"{number:03}.jpg").write_bytes(photo)
        facts = {"inputs": self._inputs, "versions": versions, "ids": shop.lasting, "titles": shop.titles}
        self._facts.write_text(json.dumps(facts))

    @property
    def location(self) -> Path:
        return self._folder / "index"

    def use(self, processes: Supervisor, number: int) -> None:
        """Let the first or second version serve."""
        name = json.loads(self._facts.read_text())["versions"][number]
        if version.read_current(self.location) != name:
            processes.run("use", [*COMMAND, "versions", "use", str(self.location), name])

    def samples(self, address: str) -> Samples:
        """What to ask a gateway over this index."""
        facts = json.loads(self._facts.read_text())
        found = {}
        with Client(address) as client:
            for product_id in facts["ids"][:_IDS]:
                with suppress(NotFound, KeyError):  # It has no photo.
                    found[product_id] = client.vectors(product_id, [SPACE])[SPACE]
        photos = [each.read_bytes() for each in sorted((self._folder / "photos").iterdir())]
        vectors = np.stack([*found.values()])
        return Samples(ids=[*found], space=SPACE, vectors=vectors, titles=facts["titles"], photos=photos)
