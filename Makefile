# make demo   set up everything and run the main job on the embedded lab model (minutes, no GPU, no hub)
# make test   set up everything and run all tests but gpu
# make check  everything CI holds but the demo: format, lint, types, layers, tests, the torch-free view
# make app    look at a store in the browser (RUNS=runs/demo); without one, at the shipped example
# make view   an environment without torch in which figures and the app work, and proof that they do
# make bench  measure speed beside the peers (ROWS="name ..." for some)

PYTHON ?= python3
BIN := .venv/bin
VIEW := .venv-view/bin
STORE ?= runs/demo
JOBS ?= 2
export HF_HUB_OFFLINE = 1
export OMP_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check format-check lint types layers format bench bench-app app view view-test clean

demo: .venv/.installed
	$(BIN)/workbench demo --store $(STORE) --jobs $(JOBS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not gpu" -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: format-check lint types layers test view-test

format-check: .venv/.installed-dev
	$(BIN)/ruff format --check .

lint: .venv/.installed-dev
	$(BIN)/ruff check .

types: .venv/.installed-dev
	$(BIN)/mypy

layers: .venv/.installed-dev
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks $(ROWS)

bench-app: .venv/.installed-dev
	$(BIN)/python -m benchmarks.app

app: .venv/.installed
	$(BIN)/python -m app $(RUNS)

view: .venv-view/.installed
	@echo "The torch-free environment is in .venv-view: $(VIEW)/python -m app STORE"

view-test: .venv-view/.installed-test
	$(VIEW)/python -m pytest -o addopts="" -q -m "not slow" tests/app tests/figures/test_command.py \
	  tests/browser/test_pages.py::test_the_shipped_example_draws -p no:cacheprovider -n $(JOBS) --dist loadfile

clean:
	rm -rf .venv .venv-view runs build dist

# constraints.txt pins every version; torch first, so that nothing pulls another build of it.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11, 3.12 or 3.13 is needed, this is {v.major}.{v.minor}; try: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

.venv-view/.installed: pyproject.toml constraints-view.txt
	test -x $(VIEW)/python || $(PYTHON) -m venv .venv-view
	$(VIEW)/pip install -q -r constraints-view.txt
	$(VIEW)/pip install -q --no-deps -e .
	touch $@

.venv-view/.installed-test: .venv-view/.installed
	$(VIEW)/pip install -q -c constraints.txt pytest pytest-timeout pytest-xdist hypothesis beartype playwright
	touch $@
