"""Import TensorFlow on first use, and send what it prints to the log. Redirects stderr during the import."""

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
    """The tensorflow module. The first import takes seconds and 500 MB: only the model server and the export do it."""
    if "TF_CPP_MIN_LOG_LEVEL" not in environ:
        os.putenv("TF_CPP_MIN_LOG_LEVEL", "2")  # Its C++ code reads the process environment. 2: errors only.
    if "tensorflow" not in sys.modules:
        with _stderr_to_log():
            import tensorflow  # noqa: F401  # only to get it into sys.modules
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return sys.modules["tensorflow"]


@contextmanager
def _stderr_to_log() -> Iterator[None]:
    """Redirect stderr, which C++ writes to, to the log: at debug level, or error if the import fails.

    TensorFlow 2.21 writes four lines before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    level = logging.ERROR
    with tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
            level = logging.DEBUG
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                log.log(level, "%s", line)
