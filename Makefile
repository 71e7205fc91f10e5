# Everything here works on a machine with Python 3.11 or later, git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := .tools
# The certificates of the machine, as pip takes them: behind a company's proxy no others work.
UV     := $(TOOLS)/bin/uv --system-certs
STAMP  := $(VENV)/.installed
NODE_STAMP := tests/sdk/node/node_modules/.installed
UV_VERSION := 0.13.8
# Files stay together on a worker, with the gateway that they share, until a worker has nothing left to do.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
COVERED := --cov --cov-report=term:skip-covered

# Without it, each of the hundreds of processes that the suite starts would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve test test-oldest coverage test-repeat hostile lint check fuzz audit fix docs bench soak lock clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

serve: $(STAMP)  ## Install if needed, then start the gateway on http://127.0.0.1:3100
	@exec $(BIN)/embedgate serve

test: export TEST_RESULTS := $(if $(filter true,$(CI)),build/test/results.json)
test: $(STAMP) $(NODE_STAMP)  ## Install if needed, then run the whole test suite, in parallel
	@$(BIN)/python -m pytest $(PARALLEL) $(if $(filter true,$(CI)),$(COVERED)) $(ARGS)

coverage: $(STAMP) $(NODE_STAMP)  ## Run the whole suite and show its branch coverage, which may not fall
	@$(BIN)/python -m pytest $(PARALLEL) $(COVERED) $(ARGS)

test-repeat: $(STAMP) $(NODE_STAMP)  ## Run the suite 20 times under the worst conditions (ARGS="--times 3")
	@$(BIN)/python tools/repeat_tests.py $(ARGS)

# Attackers, dying machines and lying providers, at length. The seed is printed; TEST_SEED=... gives the same run again.
hostile: export TEST_FORM := long
hostile: export TEST_SEED := $(or $(TEST_SEED),$(shell date +%s))
hostile: $(STAMP)  ## Run the long form of the hostile tests, under twenty minutes (TEST_SEED=... repeats a run)
	@echo "seed: TEST_SEED=$$TEST_SEED"
	@$(BIN)/python -m pytest $(PARALLEL) -m hostile --timeout 1200 --hypothesis-seed=$$TEST_SEED $(ARGS)

# Private parts of uvicorn are overridden. The suite runs on the newest version that pyproject.toml allows; this, on the oldest.
OLDEST_UVICORN := $(shell sed -n 's/.*"uvicorn>=\([0-9.]*\),.*/\1/p' pyproject.toml)

test-oldest: $(STAMP)  ## Test the server's connections on the oldest uvicorn that is allowed
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --upgrade --target $(VENV)/oldest uvicorn==$(OLDEST_UVICORN)
	@PYTHONPATH=$(CURDIR)/$(VENV)/oldest $(BIN)/python -c \
	    'import uvicorn; assert uvicorn.__version__ == "$(OLDEST_UVICORN)", uvicorn.__file__'
	@PYTHONPATH=$(CURDIR)/$(VENV)/oldest $(BIN)/python -m pytest \
	    tests/server/test_connection.py tests/end_to_end/test_lifecycle.py $(ARGS)

lint: $(STAMP)  ## Format, lint, strict types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## Everything that must hold on every commit

fuzz: $(STAMP)  ## Ask every route of a running gateway more than 20,000 times whatever it permits (ten minutes)
	@EMBEDGATE_FUZZ_EXAMPLES=300 $(BIN)/python -m pytest tests/end_to_end/test_schemathesis.py $(ARGS)

audit: $(STAMP)  ## Look the locked dependencies up among the known vulnerabilities (asks OSV over the network)
	@$(BIN)/python tools/audit_dependencies.py $(ARGS)

fix: $(STAMP)  ## Apply formatting and safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## Write the reference pages anew from the code
	$(BIN)/python tools/generate_docs.py

bench: $(STAMP)  ## Measure the gateway (PEERS=litellm,portkey for these too; ARGS=--help)
	@$(BIN)/python -m bench $(if $(PEERS),--peers $(PEERS)) $(if $(ENGINES),--engines $(ENGINES)) $(ARGS)

soak: $(STAMP)  ## Half an hour at full load: fails if memory, descriptors or p99 grow (ARGS="--minutes 60")
	@$(BIN)/python -m bench.soak $(ARGS)

lock: $(TOOLS)/bin/uv  ## Resolve the dependencies into the lock files (ARGS=--upgrade for newer versions)
	$(UV) pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes \
	    --no-annotate --no-emit-index-url --no-header $(ARGS) --no-emit-package sentence-transformers --no-emit-package torch --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra minilm --extra tokens --extra bedrock --constraints requirements.lock \
	    --universal --generate-hashes --no-annotate --no-emit-index-url --no-header $(ARGS) --no-emit-package sentence-transformers --no-emit-package torch --output-file deploy/requirements.lock
	$(UV) pip compile --group build --constraints requirements.lock \
	    --universal --generate-hashes --no-annotate --no-emit-index-url --no-header $(ARGS) --output-file deploy/build.lock
	$(UV) pip compile tests/sdk/python/requirements.in --excludes tests/sdk/python/excludes.txt \
	    --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-header $(ARGS) \
	    --output-file tests/sdk/python/requirements.lock
	$(UV) pip compile tests/sdk/python/semantic_kernel.in \
	    --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-header $(ARGS) \
	    --output-file tests/sdk/python/semantic_kernel.lock

clean:  ## Remove the environment and every cache of this checkout
	rm -rf $(VENV) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# The SDKs for Node, which the tests try against the gateway; without npm those tests say so and skip.
$(NODE_STAMP): tests/sdk/node/package.json tests/sdk/node/package-lock.json
	@if command -v npm >/dev/null; then \
	    npm ci --silent --no-audit --no-fund --prefix tests/sdk/node && touch $@ \
	    || echo "npm could not install the SDKs for Node; their tests will be skipped" >&2; fi

$(TOOLS)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "embedgate needs Python 3.11 or later, found %s; set PYTHON=..." % sys.version.split()[0])'
	@$(PYTHON) -m venv $(TOOLS) || { echo "The venv module is not complete here; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): $(TOOLS)/bin/uv pyproject.toml requirements.lock
	@echo "Installing into $(VENV) ..."
	@test -x $(BIN)/python || $(UV) venv --quiet --python $$($(PYTHON) -c 'import sys; print(sys.executable)') $(VENV)
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
