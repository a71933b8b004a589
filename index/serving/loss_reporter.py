"""Count and log the changes that are lost between the versions that are loaded. Writes logs."""

from __future__ import annotations

import logging

from index.live.migration_loss import MigrationLoss
from index.serving import metrics

log = logging.getLogger(__name__)


class LossReporter:
    """Counts lost changes, and logs each reason once while the same versions are loaded."""

    def __init__(self) -> None:
        self._logged: frozenset[str] = frozenset()

    def reset(self) -> None:
        """Log every reason anew: another version was loaded."""
        self._logged = frozenset()

    def report(self, loss: MigrationLoss, version: str) -> None:
        metrics.CHANGES_LOST.inc(loss.changes)
        for reason in sorted(loss.reasons - self._logged):
            log.error("changes of version %s are missing in the one loaded beside it: %s", version, reason)
        self._logged |= loss.reasons
