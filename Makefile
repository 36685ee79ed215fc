# Two commands: `make demo` shows it, `make test` checks it. Everything lands in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test clean

demo: .venv/installed
	$(BIN)/condiff colorize examples/grey.jpg -o demo.jpg --seed 1 --force
	@echo "Look at demo.jpg beside examples/grey.jpg."

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	@touch $@

.venv/tested: .venv/installed
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv demo.jpg
