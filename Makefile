# `make demo` shows it, `make test` checks it: both in .venv. `make wheel` packs it, weights included, into dist.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CPU_TORCH := https://download.pytorch.org/whl/cpu

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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or newer: name one, as in make demo PYTHON=python3.12"; \
		exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# PyPI's torch for Linux brings 2.7 GB of CUDA. Where there is no NVIDIA GPU, and PyTorch's own index
# answers, its CPU build of 0.2 GB is installed first.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(PIP) -c constraints.txt --no-deps --retries 0 --index-url $(CPU_TORCH) torch 2>/dev/null \
			|| echo "$(CPU_TORCH) gives no torch for this machine: PyPI's is installed."; \
	fi
	$(PIP) -c constraints.txt -e .
	@touch $@

.venv/tested: .venv/installed
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv dist demo.jpg
