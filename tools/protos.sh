#!/usr/bin/env bash
# Generate the Python stubs next to their .proto files. `--check` writes them elsewhere and compares.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=.
[ "${1:-}" = "--check" ] && out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" protos/*/v1/*.proto
if [ "$out" != . ]; then
    status=0
    for stub in "$out"/protos/*/v1/*; do
        diff -u "${stub#"$out"/}" "$stub" || status=1
    done
    [ $status = 0 ] || { echo "The stubs are not what the .proto files say: run 'make protos'." >&2; exit 1; }
fi
