"""`lookalike encoders evaluate`: reports how good the neighbours in a catalogue are. Reads and writes files.

Runs model servers: to build an index, if none is given, for the baseline of an untrained network, and for made photos.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from encoders.image.signature import MODEL
from encoders.product import model as product_model
from encoders.product.fusion import Modality
from encoders.product.model import ProductModel
from encoders.text import model as text_model
from encoders.text.model import TextModel
from encoders.text.perturbation import perturb_titles
from lookalike.cli import arguments, flags
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.product_rules import is_photo_url
from lookalike.releases import version
from lookalike.vectors import F32, I64
from pipeline import catalogue, image_encoding
from pipeline.duplicates import Copies
from pipeline.evaluation import baselines, held_out, photo_copies, plots, report
from pipeline.evaluation.baselines import RANDOM, TFIDF_CHARACTERS, TFIDF_WORDS, UNTRAINED
from pipeline.evaluation.classification import QUERY_KINDS, evaluate_classification, query_vectors
from pipeline.evaluation.comparison import compare
from pipeline.evaluation.duplicates import evaluate_thresholds
from pipeline.evaluation.held_out import EvaluationData
from pipeline.evaluation.identity import EncodeTitles, PhotoQueries, evaluate_identity
from pipeline.evaluation.metrics import ScoreRows, cosines
from pipeline.evaluation.neighbours import choose_queries
from pipeline.evaluation.photo_copies import EncodedPhotos
from pipeline.evaluation.policy import DEFAULT, SpacePolicy
from pipeline.evaluation.report import Evaluation, EvaluationRun
from pipeline.evaluation.retrieval import AUTO, RetrievalEvaluation, evaluate_retrieval
from pipeline.local_model_server import model_server
from pipeline.product import RejectedRow
from pipeline.update.make import make_version
from pipeline.update.options import FEATURE_STORE, UpdateOptions

MAX_SAMPLE = 20_000  # Quadratic: 20,000 take minutes, and far fewer give narrow intervals.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    flags.use_tls(args)
    if not 2 <= args.sample <= MAX_SAMPLE:
        raise BadSettings(f"--sample {args.sample}: must be in 2..{MAX_SAMPLE}")
    if args.models and args.tls_ca:
        raise BadSettings("--models and --tls-ca: its own model server has no TLS: run one, and give --model-server")
    if args.models and args.model_server:
        raise BadSettings("--models and --model-server: give only one of them")
    policy = SpacePolicy.parse(args.policy)
    plots.import_matplotlib()  # Fail at once if it is missing.
    if args.location is not None:
        return _evaluate(args, environ, policy, location=args.location, artifacts=args.artifacts, notes=[])
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        location, artifacts = Path(folder) / "index", args.artifacts or Path(folder) / "encoders"
        notes = _build_index(args, environ, location, artifacts)
        return _evaluate(args, environ, policy, location=location, artifacts=artifacts, notes=notes)


def _build_index(args: argparse.Namespace, environ: Mapping[str, str], location: Path, artifacts: Path) -> list[str]:
    """Train the encoders and build the index as `lookalike update` does. Returns notes on what it has not."""
    with (
        model_server(args.models, environ, args.model)
        if args.models
        else contextlib.nullcontext(args.model_server) as address
    ):
        options = UpdateOptions(
            catalogue=args.catalogue,
            location=location,
            artifacts=artifacts,
            connect_encoder=partial(image_encoding.connect_encoder, address, model=args.model) if address else None,
            feature_store=location / FEATURE_STORE,
            shards=1,
            seed=args.seed,
        )
        update_report = asyncio.run(make_version(options))
        version.make_current(location, update_report.version)
    reason = update_report.no_product_space_reason
    return [f"There is no product space: {reason}."] if reason else []


def _evaluate(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    policy: SpacePolicy,
    *,
    location: Path,
    artifacts: Path | None,
    notes: list[str],
) -> int:
    data = held_out.read(location, sample=args.sample, seed=args.seed)
    model = _load_product_encoder(artifacts, data)
    photos = _find_photos(args.catalogue, data, notes)
    print_step = _step_printer(args.json)
    copied = photo_copies.rows_to_copy(photos if args.models or args.model_server else (), args.seed)
    untrained = _untrained_photos(photos, copied, notes, environ, seed=args.seed) if args.untrained else None
    reference_scores = _baselines(data, photos, notes, untrained, seed=args.seed)
    if "product" in data.encoders and model is None:
        notes.append("The product encoder was not given (--artifacts), so its classifier is not evaluated.")
    partial_queries = {} if model is None else _partial_queries(data, model)
    retrieval = evaluate_retrieval(
        data.test, policy, reference_scores, partial_queries=partial_queries, seed=args.seed, on_step=print_step
    )
    print_step("finding the same product")
    encode_titles = _title_encoders(artifacts, data, model, notes)
    copies = _encode_copies(args, data.encoders.get("image", ""), photos, notes, environ)
    photo_queries = [] if copies is None else _photo_queries(data, copies, untrained, model, seed=args.seed)
    identity = evaluate_identity(data, encode_titles, photo_queries, seed=args.seed)
    thresholds = evaluate_thresholds(
        data, _product_copies(data, encode_titles.get("text"), copies, model, seed=args.seed), seed=args.seed
    )
    print_step("comparing with baselines")
    comparisons = compare(retrieval, identity, seed=args.seed)
    print_step("classifying")
    # If all products have one label, any prediction is right.
    classification = evaluate_classification(data, model, seed=args.seed) if retrieval.main_labelling else None
    evaluation = Evaluation(
        data=data,
        retrieval=retrieval,
        identity=identity,
        comparisons=comparisons,
        thresholds=thresholds,
        classification=classification,
    )
    run = EvaluationRun(
        date=datetime.now(UTC).date().isoformat(),
        machine=_machine(),
        seed=args.seed,
        sample=args.sample,
        notes=notes,
    )
    print_step("drawing")
    document = _write_report(args.out, evaluation, run, photos)
    print(json.dumps(document, indent=1, ensure_ascii=False) if args.json else _summary(args.out, retrieval))
    return 0


def _load_product_encoder(artifacts: Path | None, data: EvaluationData) -> ProductModel | None:
    """Load the encoder of the index's product space; None without such a space or --artifacts. Raises BadArtifact."""
    fingerprint = data.encoders.get("product", "")
    if artifacts is None or not fingerprint:
        return None
    model = product_model.load(artifacts / fingerprint)
    if model.fingerprint != fingerprint:
        raise BadArtifact(f"{artifacts / fingerprint}: this is the encoder {model.fingerprint}")
    return model


def _title_encoders(
    artifacts: Path | None, data: EvaluationData, product: ProductModel | None, notes: list[str]
) -> dict[str, EncodeTitles]:
    """How titles are encoded in the text and the product space; a note if the text encoder was not given."""
    fingerprint = data.encoders.get("text", "")
    if not fingerprint:
        return {}
    if artifacts is None or not (artifacts / fingerprint).is_dir():
        notes.append("The text encoder was not given (--artifacts), so no made titles are searched for.")
        return {}
    text = text_model.load(artifacts / fingerprint)
    encoders: dict[str, EncodeTitles] = {"text": text.encode}
    if product is not None:
        encoders["product, title alone"] = partial(_encode_title_alone, text, product)
    return encoders


def _encode_title_alone(text: TextModel, product: ProductModel, titles: Sequence[str]) -> F32:
    texts = text.encode(titles)
    return product.encode(np.zeros((len(texts), product.image_dim), dtype=np.float32), texts)


def _partial_queries(data: EvaluationData, model: ProductModel) -> dict[str, Callable[[], ScoreRows]]:
    """Similarities to the products' full vectors of queries by a photo or a title alone, by name."""
    products = data.test.vectors["product"]
    return {
        f"product, {name}": partial(_partial_query_scores, products, data, model, kind)
        for name, kind in QUERY_KINDS.items()
        if kind != Modality.BOTH
    }


def _partial_query_scores(products: F32, data: EvaluationData, model: ProductModel, kind: Modality) -> ScoreRows:
    queries = model.encode(*query_vectors(data.test, kind))
    return lambda rows: np.asarray(queries[rows] @ products.T)


def _step_printer(quiet: bool) -> Callable[[str], None]:
    console = Console(stderr=True)
    return lambda step: None if quiet else console.print(f"… {step}", highlight=False)


def _find_photos(directory: Path, data: EvaluationData, notes: list[str]) -> list[Path | None]:
    """The photo of each test product; a note on missing photos."""
    photo_by_id = {
        item.product.id: directory / item.product.image
        for item in catalogue.read(directory)
        if not isinstance(item, RejectedRow) and item.product.image and not is_photo_url(item.product.image)
    }
    photos = [photo_by_id.get(product.id) for product in data.test.products]
    missing = sum(photo is None for photo in photos)
    if missing == len(photos):
        notes.append("No test product has a photo in the catalogue: there is no picture of neighbours.")
    elif missing:
        notes.append(f"{missing:,} test products have no photo in the catalogue.")
    return photos


def _baselines(
    data: EvaluationData,
    photos: Sequence[Path | None],
    notes: list[str],
    untrained: Callable[[], EncodedPhotos] | None,
    *,
    seed: int,
) -> dict[str, Callable[[], ScoreRows]]:
    """The baselines that can be computed, by name. Notes say which one is left out."""
    products = data.test.products
    titles = [product.title for product in products]
    corpus = titles + [product.title for product in data.train.products]
    scores: dict[str, Callable[[], ScoreRows]] = {
        RANDOM: lambda: cosines(baselines.random_vectors(len(products), seed)),
        TFIDF_WORDS: lambda: baselines.tfidf_query_scores(titles, titles, corpus),
        TFIDF_CHARACTERS: lambda: baselines.tfidf_query_scores(titles, titles, corpus, characters=True),
    }
    if "image" in data.encoders and any(photos):
        if untrained is not None:
            scores[UNTRAINED] = lambda: cosines(untrained().photos)
        else:
            notes.append(f"The baseline of an {UNTRAINED} is left out (--no-untrained).")
    return scores


def _untrained_photos(
    photos: Sequence[Path | None], copied: I64, notes: list[str], environ: Mapping[str, str], *, seed: int
) -> Callable[[], EncodedPhotos]:
    """The photos and their copies by the untrained image model, which runs when they are first asked for."""

    @cache
    def encode() -> EncodedPhotos:
        total = len(photos) + len(photo_copies.KINDS) * len(copied)
        with (
            baselines.untrained_model(environ, seed=seed) as address,
            progress_bar("encoding photos with the untrained model", total=total) as count,
        ):
            encoded = photo_copies.encode(
                address, photos, model=MODEL, with_photos=True, copied=copied, seed=seed, count=count
            )
        notes.append(f"{UNTRAINED}: `{encoded.encoder}`, on the same photos.")
        return encoded

    return encode


def _encode_copies(
    args: argparse.Namespace,
    expected: str,
    photos: Sequence[Path | None],
    notes: list[str],
    environ: Mapping[str, str],
) -> EncodedPhotos | None:
    """Copies of the test products' photos by the index's image model; None, with the reason in a note, without it.

    expected: the model's fingerprint; empty: the index has no image space.
    """
    if not (expected and any(photos)):
        return None  # The report says so already.
    if not (args.models or args.model_server):
        notes.append("No image model was given (--models, --model-server), so no made photos are searched for.")
        return None
    copied = photo_copies.rows_to_copy(photos, args.seed)
    with (
        model_server(args.models, environ, args.model)
        if args.models
        else contextlib.nullcontext(args.model_server) as address,
        progress_bar("encoding copies of photos", total=len(photo_copies.KINDS) * len(copied)) as count,
    ):
        encoded = photo_copies.encode(
            address, photos, model=args.model, with_photos=False, copied=copied, seed=args.seed, count=count
        )
    if encoded.encoder != expected:
        notes.append(
            f"The image model given is `{encoded.encoder}`, that of the index is `{expected}`, so no made photos are "
            "searched for."
        )
        return None
    return encoded


def _photo_queries(
    data: EvaluationData,
    copies: EncodedPhotos,
    untrained: Callable[[], EncodedPhotos] | None,
    model: ProductModel | None,
    *,
    seed: int,
) -> list[PhotoQueries]:
    """Made photos in the image space and, by the photo alone, in the product space, beside the baselines."""
    queries = []
    vectors = data.test.vectors
    for kind, images in copies.copies.items():
        methods = {"image": (images, vectors["image"])}
        if model is not None:
            alone = model.encode(images, np.zeros((len(images), model.text_dim), dtype=np.float32))
            methods["product, photo alone"] = alone, vectors["product"]
        if untrained is not None:
            methods[UNTRAINED] = untrained().copies[kind], untrained().photos
        random = baselines.random_vectors(len(images) + len(data.test.products), seed)
        methods[RANDOM] = random[: len(images)], random[len(images) :]
        queries.append(PhotoQueries(change=kind, rows=copies.rows, methods=methods))
    return queries


def _product_copies(
    data: EvaluationData,
    encode_titles: EncodeTitles | None,
    photos: EncodedPhotos | None,
    model: ProductModel | None,
    *,
    seed: int,
) -> dict[str, Copies]:
    """Copies of test products by space, as an update makes them of others: of titles, of photos, and of both."""
    copies: dict[str, Copies] = {}

    def title_copies(rows: I64) -> F32:
        titles = perturb_titles([data.test.products[row].title for row in rows.tolist()], seed)
        return encode_titles(titles) if encode_titles else np.zeros((len(rows), 0), dtype=np.float32)

    if encode_titles is not None:
        rows = np.flatnonzero([bool(product.title.strip()) for product in data.test.products])
        copies["text"] = Copies(vectors=title_copies(rows), rows=rows)
    if photos is not None:
        images = photos.copies[photo_copies.ANY]
        copies["image"] = Copies(vectors=images, rows=photos.rows)
        if encode_titles is not None and model is not None:
            vectors = model.encode(images, title_copies(photos.rows))
            copies["product"] = Copies(vectors=vectors, rows=photos.rows)
    return copies


def _write_report(
    out: Path, evaluation: Evaluation, run: EvaluationRun, photos: Sequence[Path | None]
) -> dict[str, Any]:
    """Write the pictures, report.json, summary.md and last report.md. Returns the content of report.json."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        run = _draw_pictures(out, evaluation, run, photos)
        document = report.as_json(evaluation, run)
        (out / "report.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "summary.md").write_text(report.summary(evaluation, run), encoding="utf-8")
        (out / "report.md").write_text(report.markdown(evaluation, run), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{out}: {error}") from error
    return document


def _draw_pictures(
    out: Path, evaluation: Evaluation, run: EvaluationRun, photos: Sequence[Path | None]
) -> EvaluationRun:
    """Draw the pictures that the results allow. Returns the run with their file names."""
    retrieval = evaluation.retrieval
    if (labelling := retrieval.main_labelling) is None:
        return run
    names = {name: f"{name}.png" for name in ("averages", "precision", "confusion")}
    plots.draw_averages(out / names["averages"], retrieval)
    plots.draw_precision(out / names["precision"], retrieval, labelling)
    plots.draw_confusion_matrices(out / names["confusion"], retrieval, labelling)
    if evaluation.classification is not None:
        names["reliability"] = "reliability.png"
        plots.draw_reliability(out / names["reliability"], evaluation.classification)
    products = evaluation.data.test.products
    has_photo = np.array([photo is not None for photo in photos])
    shown = choose_queries(labelling, has_photo if has_photo.any() else np.ones(len(products), bool), run.seed)
    if has_photo.any():
        names["neighbours"] = "neighbours.png"
        plots.draw_neighbours(out / names["neighbours"], retrieval, labelling, products, photos, queries=shown)
    return replace(run, pictures=names, shown_queries=shown)


def _machine() -> str:
    return f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, NumPy {np.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _summary(out: Path, retrieval: RetrievalEvaluation) -> str:
    path = str(out / "report.md")
    if (labelling := retrieval.main_labelling) is None:
        return f"{path}: no label distinguishes the spaces"
    lines = [path, f"  precision@10 by {labelling.title}, {int(labelling.is_query.sum()):,} queries:"]
    for name, quality in {**retrieval.spaces, AUTO: retrieval.auto, **retrieval.baselines}.items():
        value, low, high = quality.averages[labelling.title][0].micro
        lines.append(f"  {name:<28} {value:.3f} ({low:.3f}–{high:.3f})")
    return "\n".join(lines)


_EPILOG = """\
examples:
  lookalike encoders evaluate my-shop --models models --out quality     builds an index for the report alone
  lookalike encoders evaluate my-shop index --out quality
  lookalike encoders evaluate my-shop index --out quality --artifacts encoders --models models
  lookalike encoders evaluate my-shop index --policy 'fashion=image,*=text' --no-untrained --json

Only held-out products (every fifth, by its id) with a vector in every space are evaluated. docs/quality.md explains
the report.
"""


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders evaluate",
        description="Measure how good neighbours in a catalogue are, by the categories, tags and groups of its "
        "products, and compare with baselines; write report.md, summary.md (figures alone), report.json and pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("catalogue", type=Path, metavar="CATALOGUE", help="the catalogue")
    add(
        "location",
        type=Path,
        nargs="?",
        metavar="LOCATION",
        help="directory of an index of the catalogue, whose CURRENT version is evaluated; without it, one is built as "
        "`lookalike update` builds it, and removed",
    )
    add(
        "--artifacts",
        type=Path,
        metavar="DIR",
        help="directory of trained encoders: evaluate made titles and the classifier too",
    )
    add(
        "--models",
        type=Path,
        metavar="MODELS_DIR",
        help="directory of the image model: build an index of photos, too, if none is given, and evaluate made photos",
    )
    add("--model-server", default="", metavar="HOST:PORT", help="the same with a running model server or TF-Serving")
    add("--model", default=MODEL, metavar="NAME", help="name of the image model (default %(default)s)")
    add("--policy", default=DEFAULT, metavar="POLICY", help="the gateway's policy for AUTO (default '%(default)s')")
    add(
        "--out", type=Path, default=Path("quality"), metavar="DIR", help="directory of the report (default %(default)s)"
    )
    add("--sample", type=int, default=3000, metavar="N", help="maximum number of test products (default %(default)s)")
    add(
        "--seed",
        type=arguments.seed,
        default=0,
        metavar="N",
        help="seed of the sample and of intervals (default %(default)s)",
    )
    add("--no-untrained", dest="untrained", action="store_false", help="leave out the baseline of an untrained network")
    add("--json", action="store_true", help="print the content of report.json")
    flags.add_tls_flags(parser, environ)
    return parser
