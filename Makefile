# Two commands: `make demo` sets up and runs the main job, `make test` sets up and runs every check. Both work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# Tests run in two processes with one thread each; floors 0 to 3 are everything below the artifact.
FLOORS := src/metabayfl/types.py,src/metabayfl/errors.py,src/metabayfl/tree.py,src/metabayfl/tree_file.py,src/metabayfl/random.py,src/metabayfl/storage.py,src/metabayfl/table.py,src/metabayfl/losses.py,src/metabayfl/batches.py,src/metabayfl/models/*,src/metabayfl/generators.py,src/metabayfl/heads/*,src/metabayfl/posterior.py,src/metabayfl/uncertainty.py,src/metabayfl/meta_gradient.py,src/metabayfl/optimizers.py,src/metabayfl/aggregators/*,src/metabayfl/attacks/*,src/metabayfl/privacy/*,src/metabayfl/compression.py,src/metabayfl/algorithms/*,src/metabayfl/data/*

.PHONY: demo test gallery setup setup-dev checks unit docs clean

demo: setup
	$(BIN)/metabayfl demo --out $(OUT)

test: setup-dev checks unit docs

gallery: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python examples/gallery/regenerate.py

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metabayfl needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tables,images]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.runtime

checks:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit:
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=
	$(BIN)/coverage report --include='$(FLOORS)' --fail-under=95

docs: # not --quiet: it drops the warnings before --strict counts them
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
