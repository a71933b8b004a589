"""The step `build`: a version with its encoders in it, which does not serve yet. Reads arrays, writes files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata

import numpy as np

from index.building.build import SpaceVectors, build
from lookalike.errors import OperatorError
from lookalike.releases import version
from lookalike.releases.manifest import Origin
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from pipeline import text_encoding
from pipeline.catalogue_report import CatalogueReport
from pipeline.features.compaction import CompactionOptions
from pipeline.features.key_index import keys_of
from pipeline.features.store import Partition
from pipeline.update.encode import EncodedCatalogue, Work
from pipeline.update.read_catalogue import ReadCatalogue
from pipeline.update.train import TrainedSpaces


def software() -> str:
    """What built a version: "lookalike 0.1.0", without the number where the package is not installed."""
    try:
        return f"lookalike {metadata.version('lookalike')}"
    except metadata.PackageNotFoundError:
        return "lookalike"


def build_version(work: Work, encoded: EncodedCatalogue, trained: TrainedSpaces) -> str:
    """Build the version; returns its name."""
    options, report, catalogue = work.options, work.report, encoded.catalogue
    _name_unfindable(catalogue, trained.spaces, report.catalogue, encoded.file)
    with report.stage("index"):
        name = build(
            options.location,
            catalogue.table(),
            trained.spaces,
            shards=options.shards,
            options=options.index,
            seed=options.seed,
            threads=len(os.sched_getaffinity(0)),
            engine=options.engine,
            text_shares=trained.text_shares,
            duplicates=trained.duplicates,
            encoders=trained.artifacts,
            origin=Origin(
                catalogue=options.source,
                digest=catalogue.digest(),
                rows=report.catalogue.rows,
                rejected=report.catalogue.rejected,
                image_model=encoded.photos.model if encoded.photos is not None else "",
                software=software(),
            ),
            serve=False,
        )
    with report.stage("features"):
        _compact_features(work, catalogue, trained.spaces)
    report.add_version(version.read_manifest(options.location, name))
    return name


def _name_unfindable(
    catalogue: ReadCatalogue, spaces: Mapping[int, SpaceVectors], report: CatalogueReport, file: str
) -> None:
    """Report the products that have a vector in no space."""
    found = np.zeros(len(catalogue.products), dtype=bool)
    for space in spaces.values():
        found[space.rows] = True
    reasons = ["no word that the text encoder knows" if SPACE_TEXT in spaces else "there is no text space"]
    reasons.insert(0, "no usable photo" if SPACE_IMAGE in spaces else "there is no image space")
    for row in np.flatnonzero(~found):
        report.note_unfindable(catalogue.products[row].id, ", ".join(reasons), file, catalogue.lines[row])


def _compact_features(work: Work, catalogue: ReadCatalogue, spaces: Mapping[int, SpaceVectors]) -> None:
    """Merge small parts of the vectors that were read, and drop those of no product if that is asked for.

    The version is built by now: what goes wrong is told, and the next update tries again.
    """
    options, report = work.options, work.report
    live: dict[int, Callable[[], list[str]]] = {
        SPACE_IMAGE: lambda: [
            *(digest for digest in catalogue.photo_digests if digest is not None),
            *catalogue.copied(options.seed).copy_digests(),
        ],
        SPACE_TEXT: lambda: text_encoding.digests_of(catalogue.products),
    }
    for space, digests in live.items():
        if space not in spaces:
            continue
        keys = keys_of(digests()) if options.drop_unused_features else None
        partition = Partition(kind=space_name(space), encoder=spaces[space].encoder)
        try:
            done = work.store.compact(partition, CompactionOptions(live=keys))
        except OperatorError as error:
            report.catalogue.notice(f"features not compacted: {error}")
        else:
            report.features[str(partition)] = asdict(done)
