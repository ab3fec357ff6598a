# make demo   set up everything and run the main job on the embedded lab model (minutes, no GPU, no hub)
# make test   set up everything and run all tests but gpu
# make check  all that CI holds: format, lint, types, layers, tests

PYTHON ?= python3
BIN := .venv/bin
STORE ?= runs/demo
JOBS ?= 2
export HF_HUB_OFFLINE = 1
export OMP_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check lint types layers format bench lab clean

demo: .venv/.installed
	$(BIN)/workbench demo --store $(STORE) --jobs $(JOBS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not gpu"

check: format-check lint types layers test

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

clean:
	rm -rf .venv runs build dist

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
