# On a fresh machine with Python 3.11+: `make demo`, `make test`. Every target sets up `.venv` itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Some machines set it: then every process compiles all that it imports, TensorFlow alone for eight seconds.
unexport PYTHONDONTWRITEBYTECODE
PACKAGES := lookalike encoders index server node pipeline loadtest benchmarks tests

.PHONY: help demo test fuzz check fmt protos bench load lock pin sbom audit clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.venv/ready: requirements/build.lock requirements/dev.lock
	$(PYTHON) -c 'import sys; sys.exit("Lookalike needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/build.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --require-hashes -r requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: .venv/ready  ## Run the whole system here. ONCE=1: stop after the answers. CATALOG=DIR: your products. WEIGHTS=FILE: MobileNet weights.
	$(BIN)/lookalike demo $(if $(ONCE),--once) $(if $(CATALOG),--catalog '$(CATALOG)') $(if $(PORT),--port $(PORT)) \
		$(if $(WEIGHTS),--weights '$(WEIGHTS)')

test: .venv/ready  ## Run every test.
	GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
		--durations=15 --durations-min=1

fuzz: .venv/ready  ## Fuzz every surface with random examples. SECONDS=3600: for how long. SURFACES='rpcs http2': only these.
	GRPC_VERBOSITY=NONE $(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),3600) $(SURFACES)

load: .venv/ready  ## Load-test a running demo against the objectives of loadtest/slo.toml. LOAD='--seconds 60 …': more options.
	$(BIN)/lookalike load $(LOAD)

check: .venv/ready  ## Check style, types, import rules, stubs and spelling.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	tools/protos.sh --check
	tools/buf.sh
	$(BIN)/typos

fmt: .venv/ready  ## Format the code.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

protos: .venv/ready  ## Regenerate the gRPC stubs.
	tools/protos.sh

lock: .venv/ready  ## Pin the newest versions that pyproject.toml allows, for development and for each role.
	tools/lock.sh

pin:  ## Pin the images of others in deploy/ by digest. REGISTRY=URL: where those are that name none. CHECK=1: change nothing.
	$(PYTHON) tools/pin_images.py --registry '$(REGISTRY)' $(if $(CHECK),--check)

sbom: .venv/ready  ## List what is in each image, as CycloneDX, in dist/sbom.
	$(BIN)/python tools/sbom.py dist/sbom

audit: .venv/ready  ## Hold the lock files against known advisories. Needs the network; says so where it is not there.
	$(BIN)/python tools/audit.py

bench: .venv/ready  ## Run the benchmarks, about ten minutes; results go to benchmarks/results.
	for name in vector_search cache_hits image_queries demo_start; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:  ## Remove what the demo built, but not the virtual environment.
	rm -rf .demo
