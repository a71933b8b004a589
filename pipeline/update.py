"""`lookalike update`: encode a catalogue and build a new version of the index from it. Reads and writes files, calls
the model server.

What has not changed is not computed again: photos and texts are encoded once by each encoder, the text encoder is
trained once on the same words, and the same inputs give the version that is there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.image.models import find_model
from encoders.product import model as product_encoder
from encoders.product.train import NotBetter
from encoders.text import model as text_encoder
from index.building.build import MAX_SHARDS, SpaceVectors, build
from index.building.workshop import publish, workshop
from index.storage.location import located
from index.storage.store import Store
from lookalike.cli import arguments
from lookalike.cli.progress import counting
from lookalike.errors import BadCatalogue, BadSettings
from lookalike.local import probes, process_specs
from lookalike.local.supervisor import Supervisor
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from pipeline import encoding, fusing, words
from pipeline.features import Features
from pipeline.locks import locked
from pipeline.photos import Photo, products
from pipeline.product import FIELDS, Reject, Row
from pipeline.report import Report

_READY_S = 120.0  # TensorFlow takes ten seconds to start where the cores are busy.
STORE = ".features"  # In the location: what was computed lives where its results do.


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update is made from and into."""

    catalogue: Path
    location: Path
    artifacts: Path
    encoder: Callable[[], AbstractAsyncContextManager[encoding.Encode]] | None  # None: no image space.
    store: Path
    shards: int = 2
    seed: int = 0
    text_kind: str = "scdv"
    text_words: Path | None = None  # A fastText .bin; None: word vectors are trained.
    strict: bool = False


@dataclass(slots=True)
class Outcome:
    report: Report
    version: str = ""
    text_artifact: Path | None = None
    trained: bool = False  # The text encoder, this time.
    product_artifact: Path | None = None
    no_product: str = ""  # Why there is no product space.
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    encoded: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start_s, 3)

    def as_json(self) -> dict[str, Any]:
        return self.report.as_json() | {
            "version": self.version,
            "text_artifact": str(self.text_artifact) if self.text_artifact else None,
            "text_trained": self.trained,
            "product_artifact": str(self.product_artifact) if self.product_artifact else None,
            "no_product_space": self.no_product,
            "spaces": self.spaces,
            "encoded": self.encoded,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Catalogue:
    """The rows as far as they are read, and the digests of their photos (None: no photo)."""

    rows: list[Row] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)

    def table(self) -> pa.Table:
        return pa.table({name: [getattr(row, name) for row in self.rows] for name in FIELDS})


async def update(what: Update) -> Outcome:
    """Make the version of a catalogue that serves next. Raises OperatorError and ServiceError."""
    outcome, read = Outcome(Report(strict=what.strict)), _Catalogue()
    with locked(what.store) as store, tempfile.TemporaryDirectory(dir=store) as scratch:
        spaces: dict[int, SpaceVectors] = {}
        with outcome.stage("photos"):
            image = await _images(what, read, outcome)
        outcome.report.products = len(read.rows)
        if not read.rows:
            raise BadCatalogue(f"{what.catalogue}: no product in it")
        if image is not None:
            spaces[SPACE_IMAGE] = _image_space(image, read, Path(scratch))
        if (text := _text_space(what, read, outcome, Path(scratch))) is not None:
            spaces[SPACE_TEXT] = text
        if not spaces:
            raise BadCatalogue(f"{what.catalogue}: no product has a photo or a word in it to be similar by")
        if (product := _product_space(what, read, spaces, outcome, Path(scratch))) is not None:
            spaces[SPACE_PRODUCT] = product
        with outcome.stage("index"):
            outcome.version = build(what.location, read.table(), spaces, shards=what.shards, seed=what.seed)
    for number, space in sorted(spaces.items()):
        outcome.spaces[space_name(number)] = {"encoder": space.encoder, "vectors": len(space.rows)}
    return outcome


async def _images(what: Update, read: _Catalogue, outcome: Outcome) -> tuple[str, Features] | None:
    """Read the catalogue and encode its photos as they come; the encoder and its features where there are any."""
    async with _encoder(what) as encode:
        if encode is None:
            for _ in _photos(what, read, outcome.report, None):
                pass  # Photos are opened all the same: a row is bad or good whatever spaces are built.
            return None
        probe = await encoding.probe(encode)
        features = Features(what.store / "image" / probe.encoder, probe.vectors.shape[1])
        photos = _photos(what, read, outcome.report, features)
        outcome.encoded["photos"] = await encoding.encode_photos(encode, photos, features, probe.encoder)
    return (probe.encoder, features) if any(read.digests) else None


@asynccontextmanager
async def _encoder(what: Update) -> AsyncIterator[encoding.Encode | None]:
    if what.encoder is None:
        yield None
    else:
        async with what.encoder() as encode:
            yield encode


def _photos(what: Update, read: _Catalogue, report: Report, features: Features | None) -> Iterator[Photo]:
    with counting("reading and encoding photos") as count:
        for product in products(what.catalogue, known=() if features is None else features):
            count()
            if isinstance(product, Reject):
                report.reject(product)
                continue
            read.rows.append(product.row)
            read.digests.append(product.photo.digest if product.photo else None)
            if product.photo is not None:
                yield product.photo


def _image_space(image: tuple[str, Features], read: _Catalogue, scratch: Path) -> SpaceVectors:
    encoder, features = image
    rows = [row for row, digest in enumerate(read.digests) if digest is not None]
    vectors = features.gathered([digest for digest in read.digests if digest is not None], scratch / "image.npy")
    return SpaceVectors(encoder=encoder, vectors=vectors, rows=np.array(rows, dtype=np.int64))


def _text_space(what: Update, read: _Catalogue, outcome: Outcome, scratch: Path) -> SpaceVectors | None:
    try:
        with outcome.stage("training"), counting("training the text encoder"):
            artifact, outcome.trained = words.trained(
                [words.training_text(row) for row in read.rows],
                what.artifacts,
                kind=what.text_kind,
                seed=what.seed,
                word_vectors=what.text_words,
            )
    except BadCatalogue:
        return None  # There is no word in it; what it has is photos.
    texts = [words.text_of(row) for row in read.rows]
    with outcome.stage("texts"), counting("encoding texts") as count:
        model = text_encoder.load(artifact)
        features = Features(what.store / "text" / model.fingerprint, model.dim)
        outcome.encoded["texts"] = words.encode_texts(texts, model, features, count)
        vectors = features.gathered([words.digest_of(text) for text in texts], scratch / "text.npy")
    # A text with no word in it that says anything has a vector of zeros, which is similar to nothing.
    rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
    if not len(rows):
        return None
    outcome.text_artifact = artifact
    kept = vectors if len(rows) == len(vectors) else vectors[rows]
    return SpaceVectors(encoder=model.fingerprint, vectors=kept, rows=rows)


def _product_space(
    what: Update, read: _Catalogue, spaces: Mapping[int, SpaceVectors], outcome: Outcome, scratch: Path
) -> SpaceVectors | None:
    """Both in one, where that is better than either alone; else why there is none is told."""
    if not (SPACE_IMAGE in spaces and SPACE_TEXT in spaces):
        outcome.no_product = f"there is no {'text' if SPACE_IMAGE in spaces else 'image'} space to fuse"
        return None
    sides = fusing.Sides(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT])
    try:
        with outcome.stage("fusing"), counting("training the product encoder"):
            artifact, _ = fusing.trained(sides, read.rows, what.artifacts, seed=what.seed)
            space = fusing.fused(sides, product_encoder.load(artifact), scratch / "product.npy")
    except NotBetter as error:
        outcome.no_product = str(error)
        return None
    outcome.product_artifact = artifact
    return space


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if args.models and args.model_server:
        raise BadSettings("--models and --model-server: one of them")
    if args.model_version < 0:
        raise BadSettings(f"--model-version {args.model_version}: versions are numbered from 1")
    if (args.model_version or args.model_label) and not args.model_server:
        raise BadSettings("--model-version and --model-label are of the model of --model-server")
    if not 1 <= args.shards <= MAX_SHARDS:
        raise BadSettings(f"--shards {args.shards}: not in 1..{MAX_SHARDS}")
    location = located(args.location)
    if isinstance(location, Store) and args.staging is None:
        raise BadSettings(f"--staging is not given: where may what {location} is made from be built, and kept?")
    with (
        workshop(location, args.staging) as directory,
        model_server(args.models, environ) if args.models else contextlib.nullcontext(args.model_server) as address,
    ):
        what = Update(
            catalogue=args.catalogue,
            location=directory,
            artifacts=args.artifacts,
            encoder=partial(encoding.served, address, version=args.model_version, label=args.model_label)
            if address
            else None,
            store=args.features or directory / STORE,
            shards=args.shards,
            seed=args.seed,
            text_kind=args.text_kind,
            text_words=args.text_words,
            strict=args.strict,
        )
        outcome = asyncio.run(update(what))
        publish(location, directory, outcome.version)
    print(json.dumps(outcome.as_json(), indent=1) if args.json else _told(outcome, bool(address)))
    return 0


@contextmanager
def model_server(models: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The address of a model server of our own: TensorFlow's memory is free again when the photos are done."""
    find_model(models)  # Where there is none, say so at once.
    role = process_specs.model_server(models.resolve(), probes.free_ports(1)[0])
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as logs,
        Supervisor(Path(logs), environ, directory=process_specs.ROOT) as processes,
    ):
        processes.start(role.name, role.command, ready=role.ready)
        processes.wait_ready(timeout_s=_READY_S)
        yield role.address


def _told(outcome: Outcome, with_images: bool) -> str:
    lines = [f"version {outcome.version}: {outcome.report}"]
    for name, space in outcome.spaces.items():
        lines.append(f"  {name + ' space':<12} {space['vectors']:,} vectors by {space['encoder']}")
    if "image" not in outcome.spaces:
        lines.append(
            f"  no image space: {'no product has a photo' if with_images else 'no --models or --model-server'}"
        )
    if "text" not in outcome.spaces:
        lines.append("  no text space: no product has a word in it")
    if outcome.no_product:
        lines.append(f"  no product space: {outcome.no_product}")
    for what, stage in (("photos", "photos"), ("texts", "texts")):
        if (count := outcome.encoded.get(what, 0)) and outcome.seconds[stage] > 0:
            lines.append(f"  {what + ' encoded':<15} {count:,} ({count / outcome.seconds[stage]:,.0f} a second)")
    lines.append("  seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in outcome.seconds.items()))
    if outcome.text_artifact:
        lines.append(f"  text encoder{'' if outcome.trained else ' (unchanged)'}: {outcome.text_artifact}")
    if outcome.product_artifact:
        lines.append(f"  product encoder: {outcome.product_artifact}")
    return "\n".join(lines)


_EPILOG = """\
examples:
  lookalike update my-shop index --models models --artifacts text
  lookalike update my-shop index --model-server tf-serving:8500 --artifacts text --shards 4
  lookalike update my-shop s3://bucket/index --staging work --models models --artifacts text
  lookalike update my-shop index --artifacts text          no photos: similar by text only
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike update",
        description="Encode a catalogue's photos, train the text encoder on its words and the product encoder on its "
        "categories and tags, build a version of the index and let it serve. Only what changed since the last time is "
        "computed; an interrupted update goes on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("catalogue", type=Path, metavar="CATALOGUE", help="holds products.jsonl, .csv or .parquet, and photos")
    add("location", metavar="LOCATION", help="directory or URL of the index, where the new version will be CURRENT")
    add("--staging", type=Path, metavar="DIR", help="where to build for a URL; keeps the version built last")
    add("--models", type=Path, metavar="MODELS_DIR", help="run the image model of this folder meanwhile")
    add("--model-server", default="", metavar="HOST:PORT", help="have photos encoded by a model server or TF-Serving")
    add("--model-version", type=int, default=0, metavar="N", help="of --model-server; 0: the latest (default)")
    add("--model-label", default="", metavar="LABEL", help="the version of --model-server that has this label")
    add("--artifacts", type=Path, required=True, metavar="DIR", help="trained encoders go to DIR/<fingerprint>")
    add("--text-kind", choices=text_encoder.KINDS, default="scdv", help="(default %(default)s)")
    add("--text-words", type=Path, metavar="FILE", help="take word vectors from this fastText .bin, train none")
    add(
        "--features",
        type=Path,
        metavar="DIR",
        help=f"where computed vectors are kept (default {STORE} in LOCATION or --staging)",
    )
    add("--shards", type=int, default=2, metavar="N", help="(default %(default)s)")
    add("--seed", type=arguments.seed, default=0, metavar="N", help="of training and building (default %(default)s)")
    add("--strict", action="store_true", help="stop at the first bad row, with exit status 2")
    add("--json", action="store_true", help="print the outcome as JSON")
    return parser
