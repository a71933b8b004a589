#!/usr/bin/env bash
# Pin every package version with its hashes: requirements/dev.lock for development, one more file per role for its image,
# build.lock for what installs and builds packages, gpu.lock for tools/gpu.sh.
# The files name no package index, so that they work with any index that a machine is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {  # compile FILE OPTION...
    local out="requirements/$1.lock"; shift
    .venv/bin/uv pip compile "$@" --quiet --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-emit-index-url --custom-compile-command "make lock" -o "$out"
}
compile dev pyproject.toml --group dev "$@"
compile build --group build -c requirements/dev.lock
for role in gateway model-server text-encoder; do
    compile "$role" pyproject.toml --group "$role" --group native-grpc --group otlp -c requirements/dev.lock
done
for role in index node; do  # These images and pipeline's build and read indexes of every recipe but NGT.
    compile "$role" pyproject.toml --group "$role" --group symqg --group native-grpc --group otlp -c requirements/dev.lock
done
compile pipeline pyproject.toml --group pipeline --group ray --group sql --group symqg --group native-grpc --group otlp -c requirements/dev.lock
compile loadtest pyproject.toml --group loadtest -c requirements/dev.lock
compile gpu pyproject.toml --group gpu --group gateway -c requirements/dev.lock
