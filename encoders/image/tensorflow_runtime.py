"""TensorFlow, imported where it is needed and without its chatter."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


def import_tensorflow(environ: Mapping[str, str]) -> Any:
    """The module. Seconds and 500 MB the first time, so only the model server and the export call this."""
    if "TF_CPP_MIN_LOG_LEVEL" not in environ:
        os.putenv("TF_CPP_MIN_LOG_LEVEL", "2")  # Its C++ reads the process's environment: errors only.
    if "tensorflow" not in sys.modules:
        with _chatter_logged():
            import tensorflow  # noqa: F401  # only to be in sys.modules
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return sys.modules["tensorflow"]


@contextmanager
def _chatter_logged() -> Iterator[None]:
    """What C++ writes to standard error meanwhile goes to the log, as debug; as an error if the import fails.

    TensorFlow 2.21 writes four lines before it looks at TF_CPP_MIN_LOG_LEVEL.
    """
    level = logging.ERROR
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
            level = logging.DEBUG
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                log.log(level, "%s", line)
