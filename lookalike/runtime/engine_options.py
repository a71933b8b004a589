"""The command-line options that choose an engine. Connects to a cluster if told to."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext

from lookalike.errors import BadSettings
from lookalike.runtime import ray_engine
from lookalike.runtime.engine import Engine
from lookalike.runtime.local_engine import LocalEngine

LOCAL, RAY = "local", "ray"


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add where heavy tasks run."""
    parser.add_argument(
        "--engine",
        choices=(LOCAL, RAY),
        default=LOCAL,
        help="where heavy tasks run: on all cores of this machine (default), or on a Ray cluster whose nodes share the "
        "directories of this command (docs/operations.md)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of the cluster: auto, if this machine is a node of it (default), or ray://HOST:10001",
    )


def open_engine(options: argparse.Namespace, *, threads: int = 0) -> AbstractContextManager[Engine]:
    """The engine that the options name. threads: of this machine; 0: all cores. Raises OperatorError."""
    if options.engine == RAY:
        return ray_engine.connect(options.ray_address or ray_engine.AUTO_ADDRESS)
    if options.ray_address:
        raise BadSettings("--ray-address needs --engine ray")
    return nullcontext(LocalEngine(threads=threads))
