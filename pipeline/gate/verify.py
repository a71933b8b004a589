"""The gate: whether a release may serve, by itself and against the one that serves. Reads both, changes nothing.

Bounded: samples are of a stated size (`GateLimits`), vectors are memory-mapped, and only checksums read all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from index.backends.faiss_support import use_threads
from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.manifest import Manifest
from pipeline.gate import golden as golden_queries
from pipeline.gate import neighbours, products, recall, self_test
from pipeline.gate.golden import EncodePhoto
from pipeline.gate.limits import DEFAULT_LIMITS, GateLimits
from pipeline.gate.report import Check, GateReport, judged, not_compared
from pipeline.mapped_release import MappedRelease, map_release

FILES = "files"
CHECKS = (
    FILES,
    products.NAME,
    products.SHRINKAGE,
    products.REJECTS,
    self_test.NAME,
    recall.NAME,
    golden_queries.NAME,
    neighbours.NEIGHBOURS,
    neighbours.DRIFT,
)


def verify_release(
    location: Path,
    candidate: str,
    live: str | None,
    *,
    limits: GateLimits = DEFAULT_LIMITS,
    golden: Path | None = None,
    live_location: Path | None = None,
    encode_photo: EncodePhoto | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda check: None,
) -> GateReport:
    """Look at the version `candidate`, and compare it with the version `live`, which serves; None: nothing does.

    location: holds the candidate. live_location: holds the live version; None: the same. What of it is not there is not
    compared, and the checks say so.
    encode_photo: encodes photos of golden queries; None: the stored vectors of their products stand for them.
    Raises BadSettings for golden queries that cannot be read. Whatever is wrong with the release itself is a refusal.
    """
    use_threads(1)  # Batches are small: more threads would wait for each other, and where others work for a core.
    start_s, checks = time.monotonic(), list[Check]()
    progress(FILES)
    checks.append(_check_files(location, candidate))
    if checks[0].passed:
        try:
            release = map_release(location, candidate)
        except BadArtifact as error:
            checks[0] = Check(name=FILES, passed=False, sentence=str(error))
    if not checks[0].passed:
        checks += [not_compared(name, "the files of the release are damaged") for name in CHECKS[1:]]
    else:
        served = _Served.open(live_location or location, live)
        gate = _Gate(limits=limits, golden=golden, encode_photo=encode_photo, seed=seed, progress=progress)
        checks += gate.check(release, served)
    return GateReport(candidate=candidate, live=live, checks=checks, seconds=round(time.monotonic() - start_s, 3))


class _Served:
    """What there is of the live release: its manifest, its products and vectors, or neither, and why."""

    def __init__(self, manifest: Manifest | None, release: MappedRelease | None, absent: str) -> None:
        self.manifest = manifest
        self.release = release
        self.absent = absent  # Why there is no release.

    @classmethod
    def open(cls, location: Path, name: str | None) -> _Served:
        if name is None:
            return cls(None, None, "nothing serves yet")
        manifest = None
        try:
            manifest = version.read_manifest(location, name)
            return cls(manifest, map_release(location, name), "")
        except BadArtifact as error:
            return cls(manifest, None, f"the live release cannot be read: {error}")


@dataclass(frozen=True, kw_only=True)
class _Gate:
    """What a release is held against."""

    limits: GateLimits
    golden: Path | None
    encode_photo: EncodePhoto | None
    seed: int
    progress: Callable[[str], None]

    def check(self, release: MappedRelease, served: _Served) -> Sequence[Check]:
        """All checks but that of the files, in the order of CHECKS."""
        live, limits = served.release, self.limits
        live_categories = None if live is None else live.category_counts()
        self.progress(products.NAME)
        checks = [
            products.check_products(release.manifest, served.manifest, limits),
            products.check_shrinkage(
                release.manifest, served.manifest, release.category_counts(), live_categories, limits
            ),
            products.check_rejects(release.manifest, served.manifest, limits),
        ]
        self.progress(self_test.NAME)
        checks.append(self_test.check_encoders(release, limits, self.seed))
        self.progress(recall.NAME)
        checks.append(recall.check_recall(release, limits, self.seed))
        self.progress(golden_queries.NAME)
        checks.append(golden_queries.check_golden(release, self.golden, limits, self.encode_photo))
        self.progress(neighbours.NEIGHBOURS)
        if live is None:
            return [*checks, *(not_compared(name, served.absent) for name in (neighbours.NEIGHBOURS, neighbours.DRIFT))]
        compared = neighbours.compare_neighbours(live, release, limits.sample, self.seed)
        return [
            *checks,
            neighbours.check_neighbours(live, release, compared, limits),
            neighbours.check_drift(compared, limits),
        ]


def _check_files(location: Path, candidate: str) -> Check:
    """Every file by its checksum."""
    try:
        manifest = version.read_manifest(location, candidate)
        read = version.verify(location / candidate, manifest)
    except BadArtifact as error:
        return Check(name=FILES, passed=False, sentence=str(error))
    return judged(
        FILES, [], f"{len(manifest.files)} files, {read:,} bytes", {"files": len(manifest.files), "bytes": read}
    )
