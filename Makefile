# The verbs of the project; `make help` lists them. Environments are made by the first verb that needs them and made
# anew when their lock changes.

VENV := .venv
VENV_DEV := .venv-dev
VENV_CLIENTS := .venv-clients
NODE_CLIENT := tests/clients/node
VENV_REFERENCE := .venv-reference
VENV_LOCK := .venv-lock
BIN := $(VENV_DEV)/bin

# The first Python on the path that is new enough; say `make PYTHON=/path/to/python3.12 ...` for another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

# Locks list everything, so pip resolves nothing (--no-deps). Bytecode is written for what serving imports, not for all.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --no-compile
LOCKED := $(PIP_INSTALL) --require-hashes -r
THIS := $(PIP_INSTALL) --editable .
SERVED := quartzite.cli.main, quartzite.engines.openvino.engine, quartzite.bootstrap, quartzite.cli.server, quartzite.web.app, uvloop

# Where this is set, every process would compile all it imports anew: half a second for a server.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve install test test-clients check docs lock golden references bench bench-engine bench-length bench-ledger bench-load bench-overhead bench-peers bench-quick test-heavy clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

serve: $(VENV)/.ready ## start the server, with flags if wanted: make serve ARGS='--port 8123'
	@$(VENV)/bin/quartzite serve $(ARGS)

install: $(VENV)/.ready ## make .venv, what serving needs and nothing more
	@echo "$(VENV) is ready ($$(du -sm $(VENV) | cut -f1) MB). Start with: make serve"

test: check ## everything CI runs: the checks, then the tests
	@$(BIN)/python -m pytest $(ARGS)
	@$(if $(ARGS),,$(MAKE) --no-print-directory test-clients)

test-clients: $(VENV_CLIENTS)/.ready $(NODE_CLIENT)/node_modules/.ready ## real client libraries against a live server
	@$(VENV_CLIENTS)/bin/python -m pytest -W ignore tests/clients $(ARGS)

check: $(VENV_DEV)/.ready ## format, lint, types, import rules, generated documents
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/make_docs.py --check

docs: $(VENV_DEV)/.ready ## write the generated pages of docs/ anew from the code
	@$(BIN)/python scripts/make_docs.py

test-heavy: $(VENV_DEV)/.ready ## the tests of full-size shapes: minutes, and gigabytes of memory
	@$(BIN)/python -m pytest -m heavy $(ARGS)

references: $(VENV_REFERENCE)/.ready ## make .venv-reference: PyTorch and transformers, for golden files and comparisons

golden: $(VENV)/.ready $(VENV_REFERENCE)/.ready ## compute the golden files anew with transformers; ARGS=--check compares only
	@minilm=$$($(VENV)/bin/quartzite models pull sentence-transformers/all-MiniLM-L6-v2) && \
		$(VENV_REFERENCE)/bin/python scripts/make_golden.py --minilm "$$minilm" $(ARGS)
	@$(VENV_REFERENCE)/bin/python scripts/make_pixels.py $(ARGS)

bench-engine: $(VENV)/.ready $(VENV_REFERENCE)/.ready ## tokens per second of the engine and of sentence-transformers
	@$(VENV_REFERENCE)/bin/python benchmarks/engine.py $(ARGS)

bench-length: $(VENV)/.ready $(VENV_REFERENCE)/.ready ## time and memory of one text of 128 to 8192 tokens; a quarter of an hour
	@$(VENV)/bin/python benchmarks/length.py $(ARGS)
	@$(VENV_REFERENCE)/bin/python benchmarks/length_report.py

bench-load: $(VENV_DEV)/.ready ## twice the load that the server can take, and kill -9 under it; a few minutes
	@$(BIN)/python benchmarks/load.py $(ARGS)

bench-ledger: $(VENV_DEV)/.ready ## what keys, limits and the ledger cost, on SQLite and PostgreSQL; some minutes
	@$(BIN)/python benchmarks/ledger_cost.py $(ARGS)

bench-overhead: $(VENV)/.ready ## what a query costs over HTTP beyond the bare engine; a minute
	@$(VENV)/bin/python benchmarks/overhead.py $(ARGS)

bench-peers: ## make the environments of the peers, about 10 GB and half an hour; ARGS='vllm infinity' for some
	@$(PYTHON) benchmarks/peers/install.py $(ARGS)

bench: $(VENV)/.ready $(VENV_REFERENCE)/.ready ## Quartzite beside its peers over HTTP; see docs/benchmarks.md for parts of it
	@$(VENV)/bin/python benchmarks/service.py --models minilm --workloads queries-1 queries-16 queries-64 \
		chunks even mixed $(ARGS)
	@$(VENV)/bin/python benchmarks/service.py --models bge-large qwen3-0.6b --workloads queries-1 queries-64 \
		chunks even --rounds 2 $(ARGS)
	@$(VENV)/bin/python benchmarks/service.py --models bge-large --workloads mixed --rounds 2 --contenders \
		quartzite vllm $(ARGS)
	@$(VENV)/bin/python benchmarks/service.py --models bge-m3 --workloads long --rounds 2 $(ARGS)
	@$(VENV)/bin/python benchmarks/service.py --models qwen3-vl-small --workloads images-640x480 images-1920x1080 \
		--rounds 2 $(ARGS)
	@$(VENV_REFERENCE)/bin/python benchmarks/service_report.py
	@$(MAKE) --no-print-directory bench-load bench-ledger ARGS=

bench-quick: $(VENV)/.ready ## two minutes for daily use: MiniLM, Quartzite and, where it is installed, vLLM
	@$(VENV)/bin/python benchmarks/service.py --contenders quartzite vllm bare --rounds 2 \
		--results $(or $(RESULTS),build/bench-quick) $(ARGS)

lock: $(VENV_LOCK)/.ready ## resolve pyproject.toml into the locks; UPGRADE=1 takes the newest versions
	@$(COMPILE) pyproject.toml requirements/serve.in --output-file requirements/serve.txt
	@$(COMPILE) pyproject.toml requirements/serve.in --group dev --constraints requirements/serve.txt \
		--output-file requirements/dev.txt
	@$(COMPILE) pyproject.toml --group clients --constraints requirements/serve.txt --no-emit-package openvino \
		--output-file requirements/clients.txt

COMPILE = $(VENV_LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --annotation-style line --custom-compile-command 'make lock' \
	--excludes requirements/excluded.txt $(if $(UPGRADE),--upgrade)

clean: ## remove the environments, caches and builds; model files stay
	rm -rf $(VENV) $(VENV_DEV) $(VENV_CLIENTS) $(NODE_CLIENT)/node_modules $(VENV_REFERENCE) $(VENV_LOCK) build dist .coverage
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} +

# .locked: the environment holds its lock. .ready: and this project, which needs a new entry when pyproject.toml changes.
# pip's own bytecode and setuptools (Python 3.11 brings it) are not needed and would be 20 MB of 400; OpenVINO's readers
# of other model formats and its C++ headers neither, and would be 26 MB.
$(VENV)/.locked: requirements/serve.txt
	$(call new-venv,$(VENV),180 MB to download; half a minute to a few minutes)
	@$(VENV)/bin/python $(LOCKED) $<
	@$(VENV)/bin/python -m pip uninstall --quiet --yes setuptools 2>/dev/null || true
	@cd $(VENV)/lib/python*/site-packages/openvino && rm -rf include && \
		find libs frontend -name '*_frontend.*' ! -name '*_ir_*' -delete
	@touch $@

$(VENV)/.ready: $(VENV)/.locked pyproject.toml
	@$(VENV)/bin/python $(THIS)
	@find $(VENV)/lib -path '*/pip/*' -name __pycache__ -prune -exec rm -rf {} +
	@$(VENV)/bin/python -c 'import $(SERVED)'
	@touch $@

$(VENV_DEV)/.locked: requirements/dev.txt
	$(call new-venv,$(VENV_DEV),230 MB to download; half a minute to a few minutes)
	@$(VENV_DEV)/bin/python $(LOCKED) $<
	@touch $@

$(VENV_DEV)/.ready: $(VENV_DEV)/.locked pyproject.toml
	@$(VENV_DEV)/bin/python $(THIS)
	@touch $@

# uv downloads side by side: these hundred packages come in a sixth of the time that pip takes.
$(VENV_CLIENTS)/.locked: requirements/clients.txt | $(VENV_LOCK)/.ready
	$(call new-venv,$(VENV_CLIENTS),130 MB to download; half a minute)
	@$(UV_INSTALL) --require-hashes --requirement $<
	@touch $@

$(VENV_CLIENTS)/.ready: $(VENV_CLIENTS)/.locked pyproject.toml
	@$(UV_INSTALL) --editable .
	@touch $@

UV_INSTALL = $(VENV_LOCK)/bin/uv pip install --quiet --no-deps --python $(VENV_CLIENTS)/bin/python

$(NODE_CLIENT)/node_modules/.ready: $(NODE_CLIENT)/package-lock.json
	@if command -v npm >/dev/null; then npm ci --silent --prefix $(NODE_CLIENT) && touch $@; \
	else echo 'There is no npm: the tests of the client for Node are skipped.'; fi

$(VENV_REFERENCE)/.ready: requirements/reference.txt
	$(call new-venv,$(VENV_REFERENCE),PyTorch and transformers: 1.5 GB on disk, more with CUDA; some minutes)
	@$(VENV_REFERENCE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV_LOCK)/.ready: requirements/lock.txt
	$(call new-venv,$(VENV_LOCK),25 MB to download)
	@$(VENV_LOCK)/bin/python $(PIP_INSTALL) -r $<
	@touch $@

define new-venv
	@test -n '$(PYTHON)' && '$(PYTHON)' -c '$(NEW_ENOUGH)' || { \
		echo "Quartzite needs Python 3.11 or newer, found: $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install one, or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo 'Making $(1) with $(PYTHON) ($(2)) ...'
	@'$(PYTHON)' -m venv --clear $(1)
endef
