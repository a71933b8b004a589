"""The implementations of the gRPC server, for tests that each of them passes. No I/O."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

NATIVE = pytest.param(
    "native", marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native is not installed")
)
IMPLEMENTATIONS = ("grpcio", NATIVE)
