"""The steps from a catalogue to a version that does not serve yet: plan, encode, train, build. File and network I/O.

What is stored by content is never computed twice: vectors in the feature store, encoders by the digest of what they
were trained on, versions by that of what is in them. The manifest of progress adds what a run had decided.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from index.backends import faiss_support
from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.manifest import FORMAT
from pipeline.catalogue_report import CatalogueReport
from pipeline.features.store import FeatureStore
from pipeline.update.build import build_version, software
from pipeline.update.changes import LiveProducts
from pipeline.update.encode import EncodedCatalogue, Work, encode
from pipeline.update.options import WORK, UpdateOptions
from pipeline.update.plan import Plan, plan
from pipeline.update.progress import Progress, Step, is_after
from pipeline.update.report import UpdateReport
from pipeline.update.source import open_source
from pipeline.update.train import TrainedSpaces, Training, train
from pipeline.update_lock import lock_directory

PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How far it came. version: empty where it was to stop before it was built."""

    report: UpdateReport
    plan: Plan
    version: str = ""


async def make_version(options: UpdateOptions) -> UpdateReport:
    """Build a version that does not serve yet. Raises OperatorError and ServiceError."""
    with lock_directory(options.location / WORK) as work:
        progress = Progress(work / PROGRESS)
        report = (await make(options, progress, live=None)).report
        progress.finish()
        return report


@contextmanager
def scratch_directory(options: UpdateOptions) -> Iterator[Path]:
    """An empty directory; what a killed update left there is removed."""
    scratch = options.location / WORK / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def make(
    options: UpdateOptions,
    progress: Progress,
    *,
    live: LiveProducts | None,
    until: Step = Step.BUILD,
    say: Callable[[str], None] = lambda _: None,
) -> Made:
    """Run the steps up to `until`, for which the caller holds the lock. live: what serves, to compare with."""
    report = UpdateReport(CatalogueReport(strict=options.strict, max_rejected=options.max_rejected))
    store = FeatureStore(options.feature_store, notice=report.catalogue.notice)
    with scratch_directory(options) as scratch:
        work = Work(options=options, report=report, store=store, scratch=scratch)
        start_s = time.monotonic()
        with report.stage("products"):
            source = await open_source(options, scratch)
            planned = plan(source, live)
        say(str(planned))
        plan_s = time.monotonic() - start_s
        start_s = time.monotonic()
        encoded = await encode(work, source)
        seconds = {Step.PLAN: plan_s, Step.ENCODE: time.monotonic() - start_s}
        progress.begin(_inputs(options, encoded), seconds)
        if progress.taken_over:
            say(f"taken over from an update that was stopped: {', '.join(progress.taken_over)}")
        if until is Step.ENCODE:
            return Made(report=report, plan=planned)
        trained = _train(work, encoded, progress)
        if not is_after(Step.BUILD, until):
            name = _build(work, encoded, trained, progress)
            return Made(report=report, plan=planned, version=name)
    return Made(report=report, plan=planned)


def _train(work: Work, encoded: EncodedCatalogue, progress: Progress) -> TrainedSpaces:
    done = progress.result(Step.TRAIN)
    decided = None if done is None else Training.from_json(done)
    start_s = time.monotonic()
    trained = train(work, encoded, decided=decided)
    if decided is None:
        progress.undo(Step.TRAIN)
        progress.done(Step.TRAIN, time.monotonic() - start_s, trained.training.as_json())
    return trained


def _build(work: Work, encoded: EncodedCatalogue, trained: TrainedSpaces, progress: Progress) -> str:
    location, done = work.options.location, progress.result(Step.BUILD)
    if done is not None and is_intact(location, done["version"]):
        work.report.add_version(version.read_manifest(location, done["version"]))
        return work.report.version
    progress.undo(Step.BUILD)
    start_s = time.monotonic()
    name = build_version(work, encoded, trained)
    progress.done(Step.BUILD, time.monotonic() - start_s, {"version": name})
    return name


def _inputs(options: UpdateOptions, encoded: EncodedCatalogue) -> str:
    """A digest of all that decides the version, but for what serves: that changes when the update publishes."""
    return encoded.catalogue.digest(
        FORMAT,
        software(),
        faiss_support.build_tag(),
        options.source,
        options.shards,
        options.index,
        options.seed,
        options.text_settings.digest(),
        str(options.keep_text_encoder),
        encoded.photos.vectors.encoder if encoded.photos is not None else "",
    )


def is_intact(location: Path, name: str) -> bool:
    """Whether a version is there, undamaged."""
    try:
        version.verify(location / name, version.read_manifest(location, name))
    except BadArtifact:
        return False
    return True
