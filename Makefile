# Everything here works from a fresh clone with Python 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types check-imports unit build docs bench clean
.DEFAULT_GOAL := test

demo: .venv/runtime  ## start the gateway with four simulated vendors and send it a batch
	$(BIN)/usage-gateway demo $(ARGS)

test: lint types check-imports unit  ## everything: style, types, layering, tests, packages

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/basedpyright

check-imports: .venv/dev
	$(BIN)/lint-imports

unit: .venv/dev
	$(BIN)/pytest -n 2

docs: .venv/dev  ## write the generated parts of the documents anew
	$(BIN)/python -m gateway.document

bench: .venv/dev  ## measure, side by side, against the goals
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .venv dist .ruff_cache .hypothesis .import_linter_cache

.venv/runtime: requirements/runtime.lock pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip --quiet --disable-pip-version-check install --require-hashes -r requirements/runtime.lock
	$(BIN)/pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev: requirements/dev.lock pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip --quiet --disable-pip-version-check install --require-hashes -r requirements/dev.lock
	$(BIN)/pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	touch $@ .venv/runtime
