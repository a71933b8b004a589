"""`lookalike encoders evaluate`: how good the neighbours of an index are, as a report. Reads an index and a catalogue,
runs a model server for the untrained baseline, writes files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from encoders.product import model as product
from encoders.product.fusion import Modality
from encoders.product.model import ProductModel
from lookalike.cli import arguments
from lookalike.cli.progress import counting
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings, OperatorError
from lookalike.vectors import F32
from pipeline import catalogue
from pipeline.evaluation import baselines, heldout, pictures, tables
from pipeline.evaluation.classes import KINDS, classified, inputs
from pipeline.evaluation.heldout import HeldOut
from pipeline.evaluation.judging import AUTO, Judgement, judged
from pipeline.evaluation.measures import Scores, cosines
from pipeline.evaluation.policy import DEFAULT, Policy
from pipeline.evaluation.tables import Findings, Run
from pipeline.product import Bad, Reject

MAX_SAMPLE = 20_000  # All are ranked for each: 20,000 take minutes, and intervals are narrow long before.
RANDOM, WORDS, UNTRAINED = "random vectors", "TF-IDF of titles", "untrained MobileNet"


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    if not 2 <= args.sample <= MAX_SAMPLE:
        raise BadSettings(f"--sample {args.sample}: not in 2..{MAX_SAMPLE}")
    policy = Policy.parse(args.policy)
    pictures.plotting()  # Where it is missing, say so at once.
    held = heldout.read(args.location, sample=args.sample, seed=args.seed)
    model = _product_encoder(args.artifacts, held)
    photos, notes = _photos(args.catalogue, held)
    say = _saying(args.json)
    against = _baselines(held, photos, notes, environ, untrained=args.untrained, seed=args.seed)
    if "product" in held.encoders and model is None:
        notes.append("The product encoder was not given (--artifacts): its classifier is not measured.")
    further = {} if model is None else _asked_with_less(held, model)
    judgement = judged(held.judged, policy, against, further=further, seed=args.seed, step=say)
    say("telling categories")
    # Where all products are of one label, anybody is right.
    classification = classified(held, model, seed=args.seed) if judgement.main else None
    findings = Findings(held=held, judgement=judgement, classification=classification)
    run = Run(
        location=str(args.location),
        catalogue=str(args.catalogue),
        date=datetime.now(UTC).date().isoformat(),
        machine=_machine(),
        seed=args.seed,
        sample=args.sample,
        notes=notes,
    )
    say("drawing")
    told = _written(args.out, findings, run, photos)
    print(json.dumps(told, indent=1, ensure_ascii=False) if args.json else _told(args.out, judgement))
    return 0


def _product_encoder(artifacts: Path | None, held: HeldOut) -> ProductModel | None:
    """The one that made the index's product space, where there is one. Raises BadArtifact."""
    made = held.encoders.get("product", "")
    if artifacts is None or not made:
        return None
    model = product.load(artifacts / made)
    if model.fingerprint != made:
        raise BadArtifact(f"{artifacts / made}: is {model.fingerprint}")
    return model


def _asked_with_less(held: HeldOut, model: ProductModel) -> dict[str, Callable[[], Scores]]:
    """Queries by a photo or a title alone, among whole products."""
    whole = held.judged.vectors["product"]
    return {
        f"product, {name}": partial(_scores, whole, held, model, kind)
        for name, kind in KINDS.items()
        if kind != Modality.BOTH
    }


def _scores(whole: F32, held: HeldOut, model: ProductModel, kind: Modality) -> Scores:
    queries = model.encode(*inputs(held.judged, kind))
    return lambda rows: np.asarray(queries[rows] @ whole.T)


def _saying(quiet: bool) -> Callable[[str], None]:
    console = Console(stderr=True)
    return lambda what: None if quiet else console.print(f"… {what}", highlight=False)


def _photos(directory: Path, held: HeldOut) -> tuple[list[Path | None], list[str]]:
    """The photo of each judged product, and what to say of those that have none."""
    named = {
        item[1].id: directory / item[1].image
        for item in catalogue.read(directory)
        if not isinstance(item, Reject) and item[1].image
    }
    photos = [named.get(product.id) for product in held.judged.products]
    lacking = sum(photo is None for photo in photos)
    if lacking == len(photos):
        return photos, [f"No photo of the judged products in the catalogue {directory}: no contact sheet."]
    return photos, [f"{lacking:,} of the judged products have no photo in the catalogue."] if lacking else []


def _baselines(
    held: HeldOut,
    photos: Sequence[Path | None],
    notes: list[str],
    environ: Mapping[str, str],
    *,
    untrained: bool,
    seed: int,
) -> dict[str, Callable[[], Scores]]:
    products = held.judged.products
    titles = [product.title for product in products]
    learnt_from = titles + [product.title for product in held.voters.products]
    against: dict[str, Callable[[], Scores]] = {
        RANDOM: lambda: cosines(baselines.random_vectors(len(products), seed)),
        WORDS: lambda: baselines.counted_words(titles, learnt_from),
    }
    if "image" in held.encoders and any(photos):
        if untrained:
            against[UNTRAINED] = partial(_untrained, photos, notes, environ, seed)
        else:
            notes.append(f"The baseline of an {UNTRAINED} was left out (--no-untrained).")
    return against


def _untrained(photos: Sequence[Path | None], notes: list[str], environ: Mapping[str, str], seed: int) -> Scores:
    """Products without a photo have a vector of zeros, which is similar to nothing."""
    having = [at for at, photo in enumerate(photos) if photo is not None]
    try:
        with counting("encoding photos without training", total=len(having)) as count:
            given = [photo for photo in photos if photo is not None]
            vectors, encoder = baselines.untrained_vectors(given, environ, seed=seed, count=count)
    except Bad as bad:
        raise BadCatalogue(f"the catalogue has changed since the index was built: {bad}") from bad
    notes.append(f"{UNTRAINED}: `{encoder}`, of the same photos.")
    every: F32 = np.zeros((len(photos), vectors.shape[1]), dtype=np.float32)
    every[having] = vectors
    return cosines(every)


def _written(out: Path, findings: Findings, run: Run, photos: Sequence[Path | None]) -> dict[str, Any]:
    """Pictures, report.json and report.md, this one last; what report.json says."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        run = _drawn(out, findings, run, photos)
        told = tables.as_json(findings, run)
        (out / "report.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "report.md").write_text(tables.markdown(findings, run), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{out}: {error}") from error
    return told


def _drawn(out: Path, findings: Findings, run: Run, photos: Sequence[Path | None]) -> Run:
    """Draw what there is to draw; the run with its pictures."""
    judgement = findings.judgement
    if (labelling := judgement.main) is None:
        return run
    names = {name: f"{name}.png" for name in ("averages", "precision", "confusion")}
    pictures.draw_averages(out / names["averages"], judgement)
    pictures.draw_precision(out / names["precision"], judgement, labelling)
    pictures.draw_confusions(out / names["confusion"], judgement, labelling)
    if findings.classification is not None:
        names["reliability"] = "reliability.png"
        pictures.draw_reliability(out / names["reliability"], findings.classification)
    if not any(photos):
        return replace(run, pictures=names)
    names["neighbours"] = "neighbours.png"
    queries = pictures.draw_neighbours(out / names["neighbours"], judgement, labelling, photos, seed=run.seed)
    return replace(run, pictures=names, queries=queries)


def _machine() -> str:
    return f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, NumPy {np.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _told(out: Path, judgement: Judgement) -> str:
    written = str(out / "report.md")
    if (labelling := judgement.main) is None:
        return f"{written}: no label tells one space from another"
    lines = [written, f"  precision@10 by {labelling.title}, {int(labelling.asked.sum()):,} queries:"]
    for name, column in {**judgement.spaces, AUTO: judgement.auto, **judgement.baselines}.items():
        value, low, high = column.averages[labelling.title][0].micro
        lines.append(f"  {name:<20} {value:.3f} ({low:.3f}–{high:.3f})")
    return "\n".join(lines)


_EPILOG = """\
examples:
  lookalike encoders evaluate my-shop index --out quality
  lookalike encoders evaluate my-shop index --out quality --artifacts encoders
  lookalike encoders evaluate my-shop index --policy 'fashion=image,*=text' --no-untrained --json

Judged are held-out products (every fifth, by its id) that have a vector in every space. docs/quality.md says how to
read the report.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders evaluate",
        description="Measure how good the neighbours of an index are, by the categories and tags of its products, "
        "beside those of baselines; write report.md, report.json and pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("catalogue", type=Path, metavar="CATALOGUE", help="what the index was built from: for its photos")
    add("location", type=Path, metavar="LOCATION", help="where versions of the index are; judged is the CURRENT one")
    add("--artifacts", type=Path, metavar="DIR", help="as for `lookalike update`: to measure the classifier too")
    add("--policy", default=DEFAULT, metavar="POLICY", help="the gateway's, of AUTO (default '%(default)s')")
    add("--out", type=Path, default=Path("quality"), metavar="DIR", help="where the report goes (default %(default)s)")
    add("--sample", type=int, default=3000, metavar="N", help="most products judged (default %(default)s)")
    add(
        "--seed",
        type=arguments.seed,
        default=0,
        metavar="N",
        help="of the sample and of intervals (default %(default)s)",
    )
    add("--no-untrained", dest="untrained", action="store_false", help="without the baseline of an untrained network")
    add("--json", action="store_true", help="print what report.json says")
    return parser
