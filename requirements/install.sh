#!/usr/bin/env bash
# Make a virtual environment with exactly the packages of a lock file, as images have it: every file that is downloaded is
# verified by its hash, what builds source packages (build.lock) too; bytecode is compiled for a file system that is
# read-only; there is no pip in it.
#   requirements/install.sh requirements/gateway.lock /venv
set -euo pipefail
lock=$1 venv=$2 python=${PYTHON:-python3}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
"$python" -m venv "$work/build"
build=$work/build/bin
"$build/pip" install --quiet --only-binary :all: --require-hashes -r "$(dirname "$0")/build.lock"
"$build/pip" wheel --quiet --no-deps --no-build-isolation --require-hashes -r "$lock" -w "$work/wheels"
"$python" -m venv --without-pip "$venv"
# The bytecode is taken as it is, whatever the times of files, which a copy between stages may change.
PYC_INVALIDATION_MODE=UNCHECKED_HASH "$build/uv" pip install --quiet --no-cache --offline --no-index --no-deps \
    --compile-bytecode --python "$venv/bin/python" "$work"/wheels/*.whl
