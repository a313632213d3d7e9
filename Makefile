# Every chore is one verb. `make run` and `make test` set up everything they need themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test check lint types fmt eval bench soak lock clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(VENV)/.serve .env  ## Serve the embedded models on port 8000
	$(BIN)/python -m app.main

test: $(VENV)/.test .env  ## Run the tests
	$(BIN)/python -m pytest tests/

check: lint types test  ## All that a change must pass

lint: $(VENV)/.dev
	$(BIN)/black --check --quiet app tests scripts benchmarks
	$(BIN)/flake8 app tests scripts benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy app
	$(BIN)/mypy tests

fmt: $(VENV)/.dev  ## Format the code
	$(BIN)/black app tests scripts benchmarks

eval: $(VENV)/.serve  ## Measure the models' quality on packaged data, print the tables
	$(BIN)/python -m scripts.evaluate

bench: $(VENV)/.test  ## Measure speed beside the bare engines, print the tables
	$(BIN)/python -m benchmarks.encoder_http
	$(BIN)/python -m benchmarks.generation_http

soak: $(VENV)/.test  ## 64 clients on all models for a minute, workers killed in turn
	$(BIN)/python -m benchmarks.soak --seconds 60
	$(BIN)/python -m benchmarks.soak --seconds 60 --kill

lock: $(VENV)/.dev  ## Pin requirements/*.in, with all that they need, into requirements*.txt
	$(call pin,serve,requirements-serve.txt)
	$(call pin,test,requirements.txt)
	$(call pin,dev,requirements-dev.txt)

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

$(VENV)/.dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@ $(VENV)/.test $(VENV)/.serve
