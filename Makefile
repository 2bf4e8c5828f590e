PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
.DEFAULT_GOAL := demo
.PHONY: demo test lint bench leaderboard docs ui setup

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m pip install -q --target .bootstrap virtualenv && PYTHONPATH=.bootstrap $(PYTHON) -m virtualenv -q $(VENV); }
	@$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv and install everything

demo: $(STAMP)  ## train, predict, score, report and track on the embedded cohort
	@$(BIN)/msseg demo $(ARGS)

test: $(STAMP)  ## the fast tests, a process per core
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(STAMP)  ## formatting, lint rules, types and the dependency rule
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

PEERS := benchmarks/.peers
$(PEERS)/.ready: benchmarks/peers.txt $(STAMP)
	@rm -rf $(PEERS)
	@$(BIN)/python -m pip install -q --no-deps --target $(PEERS) -r benchmarks/peers.txt && touch $@ || echo "The peers could not be installed; they are reported as absent."

bench: $(STAMP) $(PEERS)/.ready  ## benchmarks against the named peers (ARGS=--tiny for a look)
	@$(BIN)/python -m benchmarks $(ARGS)

leaderboard: $(STAMP)  ## every system by one protocol, then docs/leaderboard.md (some hours; goes on where it stopped)
	@$(BIN)/python -m benchmarks.studies.leaderboard $(ARGS)

docs: $(STAMP)  ## the documentation as a site in site/; warnings are errors, nothing is fetched
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q && echo "site/index.html"

ui: $(STAMP)  ## MLflow on 127.0.0.1
	@$(BIN)/msseg ui $(ARGS)
