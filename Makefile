# Everything happens in .venv, made on first use; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
# A process a core, each computing with one thread: several threads in several processes fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test test-all lint format clean

demo: .venv/installed ## Train on real scanned digits, evaluate, predict on image files
	$(BIN)/python examples/demo.py

test: lint ## Linter, type checker, import contracts, tests
	$(PYTEST) -m "not slow"

test-all: lint ## The same with the tests that take minutes
	$(PYTEST)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The kernel is compiled by the installation, so a change of its source installs again.
KERNEL := setup.py $(wildcard src/senet/kernels/*.[ch])

.venv/installed: pyproject.toml $(KERNEL) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml $(KERNEL) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch .venv/installed $@

clean:
	rm -rf .venv demo build dist src/*.egg-info src/senet/kernels/*.so
