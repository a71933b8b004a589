"""`lookalike update`: the command line of the update, and its report as text. Starts a model server if told to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from encoders.image.signature import MODEL
from encoders.text import model as text_encoder
from index.building.auto_recipe import describe
from index.building.build import MAX_SHARDS, IndexOptions
from index.building.inspect import describe_duplicates
from index.building.staging import publish, staging_directory
from index.building.version_change import current_manifest, tell_what_is_lost
from lookalike.cli import arguments
from lookalike.errors import BadSettings
from lookalike.releases.location import Location, open_location
from lookalike.releases.store import ObjectStore
from lookalike.runtime.engine_options import RAY, add_engine_options, open_engine
from pipeline import catalogue_options, image_encoding
from pipeline.catalogue_report import parse_max_rejected
from pipeline.duplicate_scores import PRECISION
from pipeline.gateway import Gateway
from pipeline.local_model_server import model_server
from pipeline.served_catalogue import check_version
from pipeline.text_encoding import KeepTextEncoder
from pipeline.update import FEATURE_STORE, UpdateOptions, UpdateReport, update

_GATEWAY_SCHEME = "grpc://"


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    index_options = IndexOptions(bytes_per_vector=args.bytes_per_vector)
    location = open_location(args.location)
    if isinstance(location, ObjectStore) and args.staging is None:
        raise BadSettings(
            f"--staging is not given: the index for {location} needs a directory in which versions are built and kept"
        )
    before = current_manifest(location)
    if gateway := _gateway(args.catalogue):
        asyncio.run(_check_gateway(gateway, location))
    with (
        open_engine(args) as engine,
        staging_directory(location, args.staging) as directory,
        model_server(args.models, environ, args.model)
        if args.models
        else contextlib.nullcontext(args.model_server) as address,
    ):
        options = UpdateOptions(
            catalogue=None if gateway else Path(args.catalogue),
            gateway=gateway,
            photos=args.photos,
            location=directory,
            artifacts=args.artifacts,
            connect_encoder=partial(
                image_encoding.connect_encoder,
                address,
                model=args.model,
                version=args.model_version,
                label=args.model_label,
            )
            if address
            else None,
            feature_store=args.features or directory / FEATURE_STORE,
            shards=args.shards,
            index=index_options,
            seed=args.seed,
            text_kind=args.text_kind,
            text_words=args.text_words,
            keep_text_encoder=KeepTextEncoder(args.keep_text_encoder),
            synonyms=tuple(args.synonyms),
            table=catalogue_options.table_options(args),
            engine=engine,
            encode_by_tasks=args.engine == RAY,
            drop_unused_features=args.drop_unused_features,
            strict=args.strict,
            max_rejected=parse_max_rejected(args.max_rejected),
        )
        report = asyncio.run(update(options))
        publish(location, directory, report.version)
    print(json.dumps(report.as_json(), indent=1) if args.json else summary(report, with_images=bool(address)))
    tell_what_is_lost(before, location.read_manifest(report.version))
    return 0


def _gateway(catalogue: str) -> str:
    """The address of the gateway that a catalogue stands for; empty: it is a directory."""
    return catalogue.removeprefix(_GATEWAY_SCHEME) if catalogue.startswith(_GATEWAY_SCHEME) else ""


async def _check_gateway(address: str, location: Location) -> None:
    async with Gateway(address) as gateway:
        await check_version(gateway, location)


def _check(args: argparse.Namespace) -> None:
    """Raise BadSettings for options that exclude each other or are out of bounds."""
    if args.photos and not _gateway(args.catalogue):
        raise BadSettings(f"--photos needs a catalogue {_GATEWAY_SCHEME}HOST:PORT: a directory has its photos below it")
    if args.models and args.model_server:
        raise BadSettings("--models and --model-server: give only one of them")
    if args.models and args.engine == RAY:
        raise BadSettings("--engine ray: --models runs a model server that other machines cannot reach: --model-server")
    if args.model_version < 0:
        raise BadSettings(f"--model-version {args.model_version}: versions are numbered from 1")
    if (args.model_version or args.model_label) and not args.model_server:
        raise BadSettings("--model-version and --model-label need --model-server")
    if not 1 <= args.shards <= MAX_SHARDS:
        raise BadSettings(f"--shards {args.shards}: must be in 1..{MAX_SHARDS}")


def summary(report: UpdateReport, *, with_images: bool) -> str:
    """The report as text. with_images: whether there was an image encoder."""
    lines = [f"version {report.version}: {report.catalogue}"]
    for name, space in report.spaces.items():
        lines.append(f"  {name + ' space':<12} {space['vectors']:,} vectors by {space['encoder']}")
        if (choice := report.choices[name]) is not None:
            lines += [f"    {line}" for line in describe(choice)]
    if report.text_shares:
        shares = " and ".join(f"{share:.0%} {name}" for name, share in report.text_shares.items())
        lines.append(f"  words alone are searched by: {shares}")
    lines += [f"  {line}" for line in _duplicates(report)]
    if "image" not in report.spaces:
        lines.append(
            f"  no image space: {'no product has a photo' if with_images else 'no --models or --model-server'}"
        )
    if "text" not in report.spaces:
        lines.append("  no text space: no product has a title or description with a word")
    if report.no_product_space_reason:
        lines.append(f"  no product space: {report.no_product_space_reason}")
    lines += [
        f"  {inputs + ' encoded':<15} {count:,} ({count / report.seconds[inputs]:,.0f} a second)"
        for inputs, count in report.encoded.items()
        if count and report.seconds[inputs] > 0
    ]
    lines.append("  seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items()))
    if report.text_artifact:
        done = "trained" if report.text_trained else "kept"
        lines.append(f"  text encoder {done}: {report.text_artifact} ({report.text_reason})")
        if fit := report.text_fit:
            figures = ", ".join(
                f"{name} {fit['trained'].get(name, 0):.4f} to {now:.4f}" for name, now in fit["now"].items()
            )
            lines.append(
                f"    {fit['changed']:.1%} of texts changed, {fit['unseen_words']:.1%} of their words unseen; {figures}"
            )
    if report.product_artifact:
        lines.append(f"  product encoder: {report.product_artifact}")
    return "\n".join(lines)


def _duplicates(report: UpdateReport) -> Iterator[str]:
    """A line for each space on the score from which products are near-duplicates."""
    for name, threshold in report.duplicates.items():
        if threshold is None:
            yield f"{name}: score of duplicates not measured: too few groups are stated, or products to copy"
        else:
            reached = "" if threshold.precision >= PRECISION else f"; no score reaches precision {PRECISION}"
            yield f"{name}: {describe_duplicates(threshold)}{reached}"


_EPILOG = """\
examples:
  lookalike update my-shop index --models models --artifacts text
  lookalike update my-shop index --model-server tf-serving:8500 --artifacts text --shards 4
  lookalike update my-shop s3://bucket/index --staging work --models models --artifacts text
  lookalike update my-shop index --model-server models:8500 --artifacts text --shards 64 --engine ray
  lookalike update my-shop index --artifacts text          no photos: compare texts only
  lookalike update grpc://gateway:50051 index --photos my-shop --models models --artifacts text
      the products that are served, as they are now; then restart the text encoders, and `lookalike catalog reencode`
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike update",
        description="Encode a catalogue's photos, train the text encoder on its texts and the product encoder on its "
        "categories and tags, build a new version of the index and make it CURRENT. Only what changed since the last "
        "update is computed; an interrupted update continues where it stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "catalogue",
        metavar="CATALOGUE",
        help=f"the catalogue: a directory with a products file and photos; or {_GATEWAY_SCHEME}HOST:PORT of a gateway: "
        "the products that it serves, with all that was changed since they were built",
    )
    add("location", metavar="LOCATION", help="directory or URL of the index that gets the new version")
    add(
        "--photos",
        type=Path,
        metavar="DIR",
        help="the directory of photos that products of a gateway state by their path",
    )
    add(
        "--staging", type=Path, metavar="DIR", help="directory to build in if LOCATION is a URL; keeps the last version"
    )
    add(
        "--models",
        type=Path,
        metavar="MODELS_DIR",
        help="run a model server with the image model in this directory during the update",
    )
    add(
        "--model-server",
        default="",
        metavar="HOST:PORT",
        help="encode photos with a running model server or TF-Serving",
    )
    add("--model", default=MODEL, metavar="NAME", help="name of the image model (default %(default)s)")
    add(
        "--model-version",
        type=int,
        default=0,
        metavar="N",
        help="model version on --model-server; 0: the latest (default)",
    )
    add("--model-label", default="", metavar="LABEL", help="model version on --model-server by its label")
    add(
        "--artifacts", type=Path, required=True, metavar="DIR", help="directory for trained encoders: DIR/<fingerprint>"
    )
    add(
        "--text-kind",
        choices=text_encoder.KINDS,
        default=text_encoder.DEFAULT_KIND,
        help="kind of text encoder (default %(default)s)",
    )
    add(
        "--text-words",
        type=Path,
        metavar="FILE",
        help="use the word vectors of this fastText .bin file instead of training them",
    )
    add(
        "--keep-text-encoder",
        choices=[*KeepTextEncoder],
        default=KeepTextEncoder.AUTO,
        help="keep the text encoder of the version that serves although texts changed; auto: if it finds as much as "
        "when it was trained (default %(default)s)",
    )
    add(
        "--synonyms",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="more words that mean the same, in titles and queries: one group per line, separated by commas "
        "(docs/synonyms.md); repeatable",
    )
    add(
        "--features",
        metavar="STORE",
        help=f"directory or URL of the computed vectors (default {FEATURE_STORE} in LOCATION or --staging)",
    )
    add(
        "--drop-unused-features",
        action="store_true",
        help="drop computed vectors that are more than a week old and that no product of this catalogue needs",
    )
    add("--shards", type=int, default=1, metavar="N", help="number of shards (default %(default)s)")
    add(
        "--bytes-per-vector",
        type=float,
        metavar="B",
        help="memory that the index of a large space may take per vector (default: what HNSW32,SQ8 takes)",
    )
    add(
        "--seed",
        type=arguments.seed,
        default=0,
        metavar="N",
        help="seed of training and building (default %(default)s)",
    )
    add_engine_options(parser)
    catalogue_options.add_table_options(parser)
    catalogue_options.add_report_options(parser)
    add("--json", action="store_true", help="print the report as JSON")
    return parser
