#!/usr/bin/env bash
# Hold a running gRPC server against the conformance tests of HTTP/2: tools/h2spec.sh HOST PORT. Needs Go.
# What it finds of both servers is in docs/fuzzing.md: it asks by GET, which a gRPC server refuses.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v go > /dev/null || { echo "tools/h2spec.sh: needs Go" >&2; exit 1; }
test -x .servers/h2spec || GOBIN="$PWD/.servers" go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1
exec .servers/h2spec --host "$1" --port "$2" --path /lookalike.v1.SimilarProducts/Search --timeout 1
