# Every target makes the environment it needs in $(VENV) when there is none, or when the
# dependencies have changed since. Variables that may be given on the command line:
#   PYTHON  the interpreter the environment is made from     make env PYTHON=python3.12
#   VENV    where the environment is                         make test VENV=/tmp/venv
#   ARGS    more arguments for the tool that a target runs   make test ARGS="-n auto -k chunked"
#   DEMO    the recipe that `make demo` runs           make demo DEMO=names
#   DATA    the digits that `make reproduce` trains on       make reproduce DATA=mnist10k.npz
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DEMO ?= digits
DATA ?=

BIN := $(VENV)/bin
# Says nothing unless it fails.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
STAMP := $(VENV)/.hyperloom-installed

# A target that fails half-way must not look finished.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help env demo test full lint docs notebooks look package versions bench trace zoo fuzz reproduce clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

env: $(STAMP)  ## make the environment (.venv) with everything the other targets need

# torch comes first and alone, exactly the version in constraints.txt: once it is there, no later
# package makes pip look for another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "hyperloom needs Python 3.11 or newer, this is " + sys.version.split()[0] + \
	    "; name another: make env PYTHON=python3.12")'
	@echo "hyperloom: making the environment $(VENV), once; this takes some minutes"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e ".[demo,test,docs,lint,bench]"
	@touch $@

demo: env  ## run a recipe: five tasks in a row, none forgotten; others: make demo DEMO=names
	$(BIN)/hyperloom demo $(DEMO) $(ARGS)

test: env  ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

full: env  ## run the tests and the long ones too (an hour)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow or not slow" $(ARGS)

lint: env  ## check style, format, types and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

docs: env  ## build the documentation into site/; warnings are errors
	$(BIN)/zensical build --strict $(ARGS)

notebooks: env  ## execute the notebooks again, from their sources; one: make notebooks ARGS=names
	$(BIN)/python -m docs.notebooks $(ARGS)

look: env  ## open every page of the documentation in headless Chromium, where there is one
	$(BIN)/python -m pytest -m slow tests/docs/test_browser.py $(ARGS)

package: env  ## build wheel and sdist into dist/, install them in a bare environment, try them
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_package.py $(ARGS)
	$(BIN)/python -m hatchling build

versions: env  ## try other versions: make versions ARGS="--python python3.13 jax==0.12.0"
	$(BIN)/python -m tests.versions $(ARGS)

bench: env  ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

trace: env  ## print how far a call travels: functions, files, changes of file
	$(BIN)/python -m benchmarks.trace $(ARGS)

zoo: env  ## run every layer and architecture of the zoo, and write its report
	$(BIN)/python -m pytest tests/zoo -m "slow or not slow" $(ARGS)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo.report

fuzz: env  ## run thousands of random targets, choices and calls: batch against loop (long)
	$(BIN)/python -m pytest tests -k fuzz -m "slow or not slow" $(ARGS)

reproduce: env  ## train the published experiments again (long): DATA=path/to/mnist10k.npz
	@test -n "$(DATA)" || { echo "make reproduce: DATA is not set; wanted the path of an .npz" \
	    "file with X (10000, 784) and Y (10000,): make reproduce DATA=mnist10k.npz" >&2; exit 2; }
	$(BIN)/python -m reproductions --data "$(DATA)" $(ARGS)

clean:  ## remove caches and what was built (the environment stays: rm -r .venv)
	rm -rf build dist site .hypothesis .pytest_cache .ruff_cache hyperloom-demo
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
