# `make demo` and `make test` each do all set-up alone, on a machine that has only Python >= 3.10 and make:
# they make the virtual environment .venv in this folder and install into it what constraints.txt pins.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.recc-ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PIN = $(shell sed -n 's/^$(1)==\([^ ;]*\).*/$(1)==\1/p' constraints.txt)
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# One test process a core; the benchmark and the demo take two threads each, wherever they run.
WORKERS ?= $(CORES)
THREADS ?= 2
PYTEST_ARGS ?=

.PHONY: help setup demo test bench accuracy tasks gpu aot fitted readme lint format clean

help:
	@echo 'make demo    train a small language model with layers compiled from a spec (under 4 minutes on 2 cores)'
	@echo 'make test    the test suite (12 to 20 minutes on 2 cores, set-up included); PYTEST_ARGS="-k name" selects'
	@echo 'make bench   times against other implementations and the machine; results in benchmarks/results/'
	@echo 'make accuracy  errors of nonlinear cells against float64, mild to chaotic, up to 100,000 tokens; a table and a plot'
	@echo 'make gpu     on a machine with a GPU, within 9 minutes: the gpu tests, a quick tune, times beside other kernels'
	@echo 'make aot     compile the kernels of every parallel spec for four GPUs that need not be there; a table of what they use'
	@echo 'make fitted  search for configurations of kernels where the default spills registers; what ships with recc'
	@echo 'make tasks   what each class of recurrence learns; redraws docs/tasks.png'
	@echo 'make readme  regenerate the tables of specs in README.md and docs/specs.md'
	@echo 'make lint    ruff; make format rewrites'
	@echo 'make setup   only the virtual environment'

setup: $(READY)

# torch first, alone and pinned; fla-core (a test oracle) without its dependencies, which would bring another torch.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "recc needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'setting up $(VENV): torch and what recc needs; this takes a few minutes the first time'
	@$(PIP) $(call PIN,torch)
	@$(PIP) setuptools wheel
	@test "$$(uname -s)" != Linux || $(PIP) $(call PIN,triton)
	@$(PIP) --no-build-isolation --editable '.[test,plot]'
	@$(PIP) --no-deps $(call PIN,fla-core) $(call PIN,einops)
	@touch $@

# Waiting threads spin for some microseconds and then sleep. By default they spin for as long as it takes, and where
# anything else runs, that takes the cores from the threads that they wait for.
demo: $(READY)
	@OMP_NUM_THREADS=$(THREADS) GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/demo.py

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# Needs a quiet machine: torch's defaults stand, since to change them would favour what makes fewer and larger calls.
bench: $(READY)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python benchmarks/foundation.py
	@$(BIN)/python benchmarks/native.py --threads 1 $(THREADS)

accuracy: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy

# Also runs where nothing can be installed: then $(PYTHON) must have torch, triton and what recc needs.
gpu:
	@$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py

# Compiles; nothing runs, and no GPU is needed. What is compiled already is kept.
aot: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.aot --jobs $(WORKERS) $(AOT_ARGS)

# Compiles likewise. After kernels have changed, and before `make aot`.
fitted: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fitted --jobs $(WORKERS) $(FITTED_ARGS)

tasks: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.tasks

readme: $(READY)
	@$(BIN)/python -m recc list --readme README.md
	@$(BIN)/python tests/specs_page.py docs/specs.md

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(READY)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
