"""A model server that runs while an update or an evaluation needs one. Starts a process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from encoders.image.models import find_model
from encoders.image.signature import MODEL
from lookalike.local import probes, process_specs
from lookalike.local.supervisor import Supervisor

_READY_S = 120.0  # TensorFlow takes ten seconds to start on busy cores.


@contextmanager
def model_server(models: Path, environ: Mapping[str, str], model: str = MODEL) -> Iterator[str]:
    """Run a model server for the block; yields its address. TensorFlow's memory is freed afterwards."""
    find_model(models, name=model)  # Fail at once if there is no model.
    server = process_specs.model_server(models.resolve(), probes.free_ports(1)[0], model=model)
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as logs,
        Supervisor(Path(logs), environ, directory=process_specs.ROOT) as processes,
    ):
        processes.start(server.name, server.command, ready=server.ready)
        processes.wait_ready(timeout_s=_READY_S)
        yield server.address
