"""`lookalike update`: the command line of the update. Starts a model server if told to."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from encoders.image.models import find_model
from encoders.image.signature import MODEL
from encoders.text import model as text_encoder
from index.building.build import MAX_SHARDS, IndexOptions
from index.building.staging import staging_directory
from lookalike.cli import arguments, flags
from lookalike.credentials import ApiKey
from lookalike.errors import BadArtifact, BadSettings
from lookalike.releases.location import Directory, Location, open_location
from lookalike.releases.records import read_record
from lookalike.releases.retention import DEFAULT_KEEP
from lookalike.releases.store import ObjectStore
from lookalike.runtime.engine import Engine
from lookalike.runtime.engine_options import RAY, add_engine_options, open_engine
from pipeline import catalogue_options, image_encoding
from pipeline.catalogue_report import parse_max_rejected
from pipeline.gate import verify_release
from pipeline.gate.limits import parse_limits
from pipeline.gateway import Gateway
from pipeline.image_encoding import PhotoEncoder
from pipeline.local_model_server import model_server
from pipeline.reencode import ReencodeOptions
from pipeline.served_catalogue import check_version
from pipeline.text_encoding import KeepTextEncoder
from pipeline.update.live import stage_live
from pipeline.update.options import ARTIFACTS, FEATURE_STORE, UpdateOptions
from pipeline.update.plan import Plan, plan_in_full
from pipeline.update.progress import STEPS, Step
from pipeline.update.run import ReleaseOptions, UpdateResult, run_update
from pipeline.update.source import open_source
from pipeline.update.summary import summary
from pipeline.update.verify import Verify
from pipeline.update.watch import GatewayWatch, Watch

_GATEWAY_SCHEME = "grpc://"
WATCH_S = 300.0

OpenWatch = Callable[[Sequence[str], float], Watch]  # Of the URLs of metrics pages, for so many seconds.


def main(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    verify: Verify | None = None,
    open_watch: OpenWatch | None = None,
) -> int:
    """verify: the gate; None: `verify_release`, by the limits that are given.

    open_watch: what looks at a release after it began to serve; None: a `GatewayWatch`.
    """
    args = _parser(environ).parse_args(argv)
    api_key = flags.api_key(args)
    _check(args)
    location = open_location(args.location)
    if isinstance(location, ObjectStore) and args.staging is None:
        raise BadSettings(
            f"--staging is not given: the index for {location} needs a directory in which versions are built and kept"
        )
    if gateway := _gateway(args.catalogue):
        asyncio.run(_check_gateway(gateway, api_key, location))
    if args.models:
        find_model(args.models, name=args.model)  # Fail at once if there is no model.
    with open_engine(args) as engine, staging_directory(location, args.staging) as directory:
        options = _update_options(args, environ, directory, engine)
        if args.dry_run or args.step is Step.PLAN:
            planned = asyncio.run(_dry_run(args, options, location))
            print(json.dumps(planned.as_json(), indent=1) if args.json else planned)
            return 0
        release = ReleaseOptions(
            location=location,
            step=args.step,
            verify=verify or partial(verify_release, limits=parse_limits(args.limit)),
            golden=args.golden,
            accept=frozenset(args.accept),
            watch=_open_watch(args, open_watch or partial(GatewayWatch, api_key=api_key)),
            gateways=(*([gateway] if gateway else []), *args.gateway),
            reencode=ReencodeOptions(wait_s=args.reencode_wait_s, api_key=api_key) if args.reencode_wait_s else None,
            keep=args.keep,
            page=args.report,
        )
        result = asyncio.run(run_update(options, release, say=_say))
    print(json.dumps(result.as_json(), indent=1) if args.json else _text(result, options))
    return result.status


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _text(result: UpdateResult, options: UpdateOptions) -> str:
    lines = []
    if result.report is not None and result.version:
        lines.append(summary(result.report, with_images=options.connect_encoder is not None))
    elif result.version:
        lines.append(f"version {result.version}")
    if result.steps:
        lines.append("  steps: " + ", ".join(f"{step} {seconds:.1f}" for step, seconds in result.steps.items()))
    if result.stopped_after:
        lines.append(f"  stopped after {result.stopped_after}, as told; the next run goes on")
    if result.page:
        lines.append(f"  report: {result.page}")
    return "\n".join(lines)


def _update_options(
    args: argparse.Namespace, environ: Mapping[str, str], directory: Path, engine: Engine
) -> UpdateOptions:
    gateway = _gateway(args.catalogue)
    return UpdateOptions(
        catalogue=None if gateway else Path(args.catalogue),
        gateway=gateway,
        api_key=flags.api_key(args),
        photos=args.photos,
        location=directory,
        artifacts=args.artifacts or directory / ARTIFACTS,
        connect_encoder=_encoder(args, environ),
        feature_store=args.features or directory / FEATURE_STORE,
        shards=args.shards,
        index=IndexOptions(bytes_per_vector=args.bytes_per_vector),
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


def _encoder(
    args: argparse.Namespace, environ: Mapping[str, str]
) -> Callable[[], AbstractAsyncContextManager[PhotoEncoder]] | None:
    """The image encoder, which is started or connected to when photos are encoded; None: there is none."""
    connect = partial(
        image_encoding.connect_encoder, model=args.model, version=args.model_version, label=args.model_label
    )
    if args.models:
        return partial(_own_encoder, args.models, environ, args.model)
    return partial(connect, args.model_server) if args.model_server else None


@asynccontextmanager
async def _own_encoder(models: Path, environ: Mapping[str, str], model: str) -> AsyncIterator[PhotoEncoder]:
    with model_server(models, environ, model) as address:
        async with image_encoding.connect_encoder(address, model=model) as encoder:
            yield encoder


def _open_watch(args: argparse.Namespace, open_watch: OpenWatch) -> Watch | None:
    return open_watch(args.gateway_metrics, args.watch_s) if args.gateway_metrics and args.watch_s else None


async def _dry_run(args: argparse.Namespace, options: UpdateOptions, location: Directory | ObjectStore) -> Plan:
    """What an update would do; nothing is changed, but the version that serves is fetched into a staging directory."""
    live = stage_live(location, options.location, _say)
    if args.models:
        encoder = find_model(args.models, name=args.model).encoder
    elif options.connect_encoder is not None:
        async with options.connect_encoder() as connected:
            encoder = (await image_encoding.probe(connected)).encoder
    else:
        encoder = ""
    try:
        last = read_record(location, live.name) if live.name else None
    except BadArtifact as error:
        _say(f"what the last release took is not known: {error}")
        last = None
    with tempfile.TemporaryDirectory(prefix="lookalike-") as scratch:
        source = await open_source(options, Path(scratch))
        return plan_in_full(options, source, live.products(options.location), image_encoder=encoder, last=last)


def _gateway(catalogue: str) -> str:
    """The address of the gateway that a catalogue stands for; empty: it is a directory."""
    return catalogue.removeprefix(_GATEWAY_SCHEME) if catalogue.startswith(_GATEWAY_SCHEME) else ""


async def _check_gateway(address: str, api_key: ApiKey | None, location: Location) -> None:
    async with Gateway(address, api_key) as gateway:
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
    if args.keep < 0:
        raise BadSettings(f"--keep {args.keep}: must be at least 0")
    if args.watch_s < 0 or args.reencode_wait_s < 0:
        raise BadSettings("--watch-s and --reencode-wait-s: must be at least 0")
    if not 1 <= args.shards <= MAX_SHARDS:
        raise BadSettings(f"--shards {args.shards}: must be in 1..{MAX_SHARDS}")


_EPILOG = """\
examples:
  lookalike update my-shop index --models models
  lookalike update my-shop index --model-server tf-serving:8500 --shards 4
  lookalike update my-shop s3://bucket/index --staging work --models models
  lookalike update my-shop index --model-server models:8500 --shards 64 --engine ray
  lookalike update my-shop index                           no photos: compare texts only
  lookalike update my-shop index --dry-run                 what would change, and what it would take
  lookalike update my-shop index --step verify             build a version and say whether it may serve
  lookalike update my-shop index --step publish --accept products
      and let it serve, although the check `products` of the gate failed
  lookalike update grpc://gateway:50051 index --photos my-shop --models models
      the products that are served, as they are now

steps: plan, encode, train, build, verify, publish, watch, reencode, retain. An update that is stopped or killed goes on
where it was: photos, texts, encoders and versions are stored by their content, and LOCATION/.update/progress.json has
what was decided. With --step verify or a later one it goes on with the version that was built, without reading the
catalogue again; otherwise the catalogue is read, and what was made of the same products is taken over.

exit status: 0 done; 1 a server failed; 2 an argument or the catalogue is wrong; 3 the gate refused the version, and
what serves stays as it is; 4 the version was published and taken back
"""


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike update",
        description="Encode a catalogue's photos, train the text encoder on its texts and the product encoder on its "
        "categories and tags, build a new version of the index, hold it against the gate and let it serve. Only what "
        "changed since the last update is computed; an interrupted update continues where it stopped.",
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
        "--artifacts",
        type=Path,
        metavar="DIR",
        help=f"directory for trained encoders: DIR/<fingerprint> (default {ARTIFACTS} in LOCATION or --staging)",
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
    _add_release_options(parser)
    flags.add_key_flag(parser, environ)
    add_engine_options(parser)
    catalogue_options.add_table_options(parser)
    catalogue_options.add_report_options(parser)
    add("--json", action="store_true", help="print the report as JSON")
    return parser


def _add_release_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("release").add_argument
    add("--dry-run", action="store_true", help="say what would change and what it would take, and change nothing")
    add(
        "--step",
        type=Step,
        choices=STEPS,
        metavar="STEP",
        help=f"run the steps up to this one that are not done yet: {', '.join(STEPS)}; plan is --dry-run",
    )
    add("--golden", type=Path, metavar="FILE", help="queries with what they must find, for the gate")
    add(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a limit of the gate in place of its default, as max_drift_retrained=0.4 (docs/releases.md); repeatable",
    )
    add(
        "--accept",
        action="append",
        default=[],
        metavar="NAME",
        help="let the version serve although this check of the gate failed, or `rolled-back`: although it was taken "
        "back before; recorded; repeatable",
    )
    add(
        "--gateway",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a gateway that serves the index: it encodes anew what changed meanwhile; repeatable: all that take "
        f"changes (a catalogue {_GATEWAY_SCHEME}HOST:PORT is the first)",
    )
    add(
        "--reencode-wait-s",
        type=float,
        default=ReencodeOptions.wait_s,
        metavar="S",
        help="how long gateways may take to serve the version, and encoders to encode what changed meanwhile; 0: it is "
        "not encoded anew (default %(default)s)",
    )
    add(
        "--gateway-metrics",
        action="append",
        default=[],
        metavar="URL",
        help="the metrics page of a gateway: if errors, coverage, latency or abstentions get worse after the version "
        "began to serve, the one before serves again; repeatable",
    )
    add(
        "--watch-s",
        type=float,
        default=WATCH_S,
        metavar="S",
        help="how long they are watched; 0: not at all (default %(default)s)",
    )
    add(
        "--keep",
        type=int,
        default=DEFAULT_KEEP,
        metavar="N",
        help="versions to keep beside the one that serves and the one that it replaced (default %(default)s)",
    )
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="where the report is written, an HTML page (default releases/<version>.html in LOCATION)",
    )
