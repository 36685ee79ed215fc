# `make demo` shows it, `make test` checks it: both in .venv. `make wheel` packs it, weights included, into dist.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test wheel clean

demo: .venv/installed
	$(BIN)/condiff colorize examples/grey.jpg -o demo.jpg --seed 1 --force
	@echo "Look at demo.jpg beside examples/grey.jpg."

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --maxprocesses=4

wheel: .venv/bin/python
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@echo "Install it anywhere: pip install -c $(CURDIR)/constraints.txt $(CURDIR)/$$(ls dist/*.whl)"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	@touch $@

.venv/tested: .venv/installed
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv dist demo.jpg
