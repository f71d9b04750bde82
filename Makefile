# Two commands: `make demo` sets up and runs the main job, `make test` sets up and runs every check. Both work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# Floors 0 to 3, everything below the artifact: their own tests must cover them. Tests run in two processes with one thread each.
FOLDERS := models heads aggregators attacks privacy algorithms data
MODULES := types errors tree tree_file random storage table losses batches generators posterior uncertainty meta_gradient optimizers compression
FLOORS := $(FOLDERS:%=src/metabayfl/%/*) $(MODULES:%=src/metabayfl/%.py)
FLOOR_TESTS := tests/conformance tests/test_mlp.py $(wildcard $(FOLDERS:%=tests/%) $(MODULES:%=tests/test_%.py)) $(FOLDERS:%=src/metabayfl/%) $(MODULES:%=src/metabayfl/%.py)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
space := $() $()
comma := ,

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
	$(PYTEST) --cov --cov-report= $(FLOOR_TESTS)
	$(BIN)/coverage report --include='$(subst $(space),$(comma),$(FLOORS))' --fail-under=95
	$(PYTEST) $(FLOOR_TESTS:%=--ignore=%)

docs: # not --quiet: it drops the warnings before --strict counts them
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
