# `make demo` and `make test` need Python 3.11 or newer, make, and the network once, to install what the locks name.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
KILLS ?= 200
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Everything for development includes everything for the demo.
READY := $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.runtime)

.PHONY: help demo test lint types unit docs kill-loop bench lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a gateway, four simulated vendors, 200 events, and what became of them"
	@echo "make test    format, lint, types, import rules, every test, the built distribution"
	@echo "make lint types unit   parts of make test"
	@echo "make docs    write the generated parts of README.md anew"
	@echo "make kill-loop KILLS=500   kill the gateway so many times under load, and count what is lost"
	@echo "make bench   measure, side by side"
	@echo "make clean   forget what was built and installed"

# Ctrl-C is how the demo ends (130), and its vendors refuse some events on purpose (4).
demo: $(READY)
	@$(BIN)/usage-gateway demo $(ARGS) || { code=$$?; [ $$code -eq 130 ] || [ $$code -eq 4 ] || exit $$code; }

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/basedpyright

unit: $(VENV)/.dev
	$(BIN)/pytest -n 3 --dist worksteal

docs: $(VENV)/.dev
	$(BIN)/python -m gateway.describing.document README.md

# kill -9 at random instants under load, KILLS times; `make test` does it 50 times.
kill-loop: $(VENV)/.dev
	USAGE_GATEWAY_KILLS=$(KILLS) $(BIN)/pytest -n 0 tests/scenarios/test_kill_during_sending.py

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ARGS)

# Needs uv. Pins stay as they are unless a requirement asks for more; add -U to raise them.
lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra build \
		pyproject.toml -o requirements/runtime.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra dev \
		pyproject.toml -o requirements/dev.lock

clean:
	rm -rf $(VENV) build dist .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml
	$(call install,requirements/runtime.lock)

$(VENV)/.dev: requirements/dev.lock pyproject.toml
	$(call install,requirements/dev.lock)

# What is installed is said on standard error, since the demo's JSON goes to standard output.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "installing what $(1) names into $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --only-binary :all: -r $(1) >&2
	@$(PIP) install --no-deps --no-build-isolation --editable . >&2
	@touch $@
endef
