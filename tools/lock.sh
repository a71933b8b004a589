#!/usr/bin/env bash
# Pin every package version with its hashes: requirements/dev.lock for development, one more file per role for its image.
# The files name no package index, so that they work with any index that a machine is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {  # compile FILE OPTION...
    local out="requirements/$1.lock"; shift
    .venv/bin/uv pip compile pyproject.toml "$@" --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-emit-index-url --custom-compile-command "make lock" -o "$out"
}
compile dev --group dev "$@"
for role in gateway model-server text-encoder; do
    compile "$role" --group "$role" --group native-grpc --group otlp -c requirements/dev.lock
done
for role in index node; do  # These images and pipeline's build and read indexes of every recipe but NGT.
    compile "$role" --group "$role" --group symqg --group native-grpc --group otlp -c requirements/dev.lock
done
compile pipeline --group pipeline --group ray --group sql --group symqg --group native-grpc --group otlp -c requirements/dev.lock
compile loadtest --group loadtest -c requirements/dev.lock
