#!/usr/bin/env bash
# Generate the Python stubs of protos/: lookalike/v1 into the package lookalike.v1, tfserving/v1 into encoders.tfserving.v1.
# `--check` generates into a temporary directory and compares.
#
# The generated files are edited in two ways. TF-Serving's messages move to the package encoders.tfserving, so the imports
# between their stubs are changed. And the guards that refuse a protobuf or grpcio older than the generator's are removed:
# a client is installed beside other packages, which may pin older versions. The oldest and the newest versions that
# pyproject.toml allows are both tested (tests/e2e/test_installed_client.py).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT
(cd protos && PATH="$(dirname "$OLDPWD/$python"):$PATH" "$OLDPWD/$python" -m grpc_tools.protoc -I . --python_out="$out" \
    --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" */v1/*.proto)
mkdir "$out/encoders" && mv "$out/tfserving" "$out/encoders/tfserving"
find "$out/encoders" -type f -exec sed -i -E "s/^(from|import) tfserving\\./\\1 encoders.tfserving./; s/'tfserving\\.v1\\./'encoders.tfserving.v1./" {} +
for stub in $(grep -LE '^class ' "$out"/lookalike/v1/*_pb2_grpc.py "$out"/encoders/*/v1/*_pb2_grpc.py); do
    rm "$stub" "${stub}i"  # A .proto without a service.
done
"$python" - "$out" <<'PYTHON'
import re
import sys
from pathlib import Path

GUARDS = (
    r"from google\.protobuf import runtime_version as _runtime_version\n",
    r"_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n",
    r"import warnings\n",
    r"\nGRPC_GENERATED_VERSION = .*?\n    \)\n",
)
for stub in Path(sys.argv[1]).rglob("*_pb2*.py"):
    text = stub.read_text()
    for guard in GUARDS:
        text = re.sub(guard, "", text, flags=re.DOTALL)
    stub.write_text(text)
PYTHON
status=0
for folder in lookalike/v1 encoders/tfserving/v1; do
    for stub in "$out/$folder"/*; do
        if [ "${1:-}" = "--check" ]; then
            diff -u "$folder/$(basename "$stub")" "$stub" || status=1
        else
            cp "$stub" "$folder/"
        fi
    done
done
[ $status = 0 ] || { echo "The stubs differ from what the .proto files generate: run 'make protos'." >&2; exit 1; }
