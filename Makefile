# Everything happens in .venv, made on first use; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
# Windows: git bash and make.
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
EXE := $(if $(filter Windows_NT,$(OS)),.exe,)
# A process a core, each computing with one thread: several threads in several processes fight over the cores. A process
# without work takes over half of another's, so that no long file is left to one of them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal

.PHONY: demo test test-all test-triton bench sanitize lint format docs docs-serve man clean

demo: .venv/installed ## Train on real scanned digits, evaluate, predict on image files
	$(BIN)/python examples/demo.py

test: lint ## Linter, type checker, import contracts, tests
	$(PYTEST) -m "not slow"

test-all: lint ## The same with the tests that take minutes, and more examples for the property tests
	$(PYTEST) --hypothesis-profile=thorough

test-triton: .venv/installed-dev ## The Triton kernels without a GPU: in the interpreter, and compiled for sm_80, 89 and 90
	TRITON_INTERPRET=1 $(PYTEST) tests/ops/interpreted
	TRITON_INTERPRET=1 SENET_KERNELS=triton $(PYTEST) tests/ops/test_ops_contract.py -k "end_of_a_block or norm_and_relu"
	$(PYTEST) tests/ops/test_ops_triton.py -k compiled

bench: .venv/installed-dev ## What attention costs in time and memory, about 25 minutes; BENCH=--quick for two
	$(BIN)/python benchmarks/bench_speed.py $(BENCH)

# The kernel with the address and undefined-behaviour sanitizers, through its own tests; the plain one comes back after.
# EXAMPLES=10000 draws so many odd arguments for each operator.
EXAMPLES ?= 150
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g
sanitize: .venv/installed-dev ## The kernel's tests under ASan and UBSan (Linux, gcc)
	SENET_CFLAGS="$(SANITIZE)" $(BIN)/python setup.py -q build_ext --inplace
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 OMP_NUM_THREADS=1 SENET_EXAMPLES=$(EXAMPLES) \
	  $(BIN)/python -m pytest -q -p no:cacheprovider --timeout=0 tests/ops tests/fusion -k "not compiled"; \
	  found=$$?; $(BIN)/python setup.py -q build_ext --inplace; exit $$found

lint: .venv/installed-dev ## Linter, type checker, import contracts, prose of pages and help texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_prose.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without the theme's note on a future MkDocs.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
docs: .venv/installed-dev ## The documentation site, in site/: open site/index.html, no server or network needed
	$(MKDOCS) build --strict

docs-serve: .venv/installed-dev ## The same at http://127.0.0.1:8000, built again at each change
	$(MKDOCS) serve --livereload

man: .venv/installed-dev ## The man page, in build/man/senet.1
	$(BIN)/python tools/make_manpage.py build/man/senet.1

$(BIN)/python$(EXE):
	$(PYTHON) -m venv .venv

# The kernel is compiled by the installation, so a change of its source installs again.
KERNEL := setup.py $(wildcard src/senet/ops/cpu/*.[ch])

.venv/installed: pyproject.toml $(KERNEL) | $(BIN)/python$(EXE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml $(KERNEL) | $(BIN)/python$(EXE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch .venv/installed $@

clean:
	rm -rf .venv demo build dist site src/*.egg-info src/senet/ops/cpu/*.so
