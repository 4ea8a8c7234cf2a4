# Every target makes what it needs first; .venv is made from requirements.lock and remade when the lock changes.
# uv links packages from its own cache, so a second checkout on the same file system costs seconds and no disk.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
STAMP := .venv/.installed-$(shell sha256sum requirements.lock pyproject.toml Makefile 2>/dev/null | sha256sum | cut -c1-16)

# Tests start some hundred processes: where byte code is not kept, each compiles torch again for seconds.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-slow check bench golden docs lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the lock (4-6 minutes cold, seconds from a warm package cache)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, %s is %d.%d; try: make PYTHON=python3.12 setup" % ((sys.executable,) + v))'
	$(PYTHON) -m venv --clear .venv  # what a new lock no longer has goes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=.venv UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --require-hashes --requirement requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/.installed-*
	@touch $@

quickstart: setup  ## synthetic music -> shards -> pretraining on two workers -> evaluation -> MLflow
	$(BIN)/counterpoint quickstart

# Tests start processes beside each other: threads of several that share the cores wait for one another.
test test-fast test-slow: export OMP_NUM_THREADS = 1
# Two pytest processes; tests that start Ray or process groups run in one of them (tests/conftest.py).
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

test: setup  ## all tests but the slow ones, with branch coverage (which lines: .venv/bin/coverage report)
	$(BIN)/python -m pytest $(WORKERS) --cov-fail-under=93

test-fast: setup  ## the tests of seconds, for the inner loop: no Ray, no process groups, nothing rendered or compiled
	$(BIN)/python -m pytest $(WORKERS) --no-cov -m "not slow and not ray and not dist and not medium"

test-slow: setup  ## the slow tests one after another, with a table of outcomes (hours)
	$(BIN)/python -m pytest --no-cov --timeout 1800 -p tests.outcome_table -m slow

check: setup  ## lint, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := augment bootstrap command_line embed_folder embedding encoders knn loader loss pitch_quality probes quickstart scaling spaces step trials

bench: setup  ## the benchmarks of a CPU one after another, tables in benchmarks/results (hours)
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

golden: setup  ## regenerate the golden loss trace (say why in the commit)
	$(BIN)/python tests/golden/regenerate.py

docs: setup  ## the documentation site in outputs/site, with its generated pages
	$(BIN)/python -m docs.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lock: setup  ## resolve requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet --output-file requirements.lock

clean:  ## delete .venv and caches (outputs stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
