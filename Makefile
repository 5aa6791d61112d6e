# A bare machine needs python3 >= 3.11 and make; everything else is installed into .venv from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
TRACKING ?= sqlite:///mlflow.db
EXPERIMENT ?= demo
OUT ?= report/$(EXPERIMENT)
PORT ?= 5000
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# not --quiet: with it, --strict counts no warnings
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
EXTRAS := dev cluster datasets docs export notebooks
NOTEBOOKS := $(patsubst %,build/%,$(wildcard notebooks/*.ipynb))
CODE := $(shell find rme tune analysis -name '*.py')
FILES ?= rme/objective.py
MINUTES ?= 8
BENCH_OUT ?= build/bench
BROWSER := tests/browser/node_modules/.package-lock.json

.PHONY: help venv demo test slow mutants bench lint format docs notebooks mlflow report lock clean

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

venv: .venv/installed  ## create .venv from the lock file

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is `$(PYTHON) -V`; Python 3.11 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv  ## VAE, its control and RME on real digits, minutes on two cores; ends with the table and the report
	@$(BIN)/python tune/sweep.py --grid demo --tracking-uri $(TRACKING)

test: venv $(BROWSER)  ## the tests, some four minutes on two cores
	$(PYTEST)

# axe-core, which the page's tests run in the browser; without npm they skip it
$(BROWSER): tests/browser/package-lock.json
	@if ! command -v npm > /dev/null; then echo "npm: not installed, so axe-core does not check the page"; \
		else npm ci --prefix tests/browser --no-audit --no-fund --silent && touch $@ || \
		echo "axe-core: npm ci --prefix tests/browser failed, so axe-core does not check the page"; fi

slow: venv  ## the slow tests, some twenty minutes
	$(PYTEST) -m slow

mutants: venv  ## how many faults put into FILES their tests notice (MORE="--sample 40 --seed 0" for a sample)
	$(BIN)/python tests/mutants.py $(FILES) $(MORE)

bench: venv  ## what this machine's GPU or CPU can do, in MINUTES (default: 8); results in BENCH_OUT (default: build/bench)
	@$(BIN)/python -m bench.device --minutes $(MINUTES) --out $(BENCH_OUT)

lint: venv  ## style, types, which room imports which, and the documentation's links
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(MKDOCS)

format: venv  ## put the code into the formatter's shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: venv $(NOTEBOOKS)  ## run the notebooks that changed, or whose code did; into build/notebooks

# a thread each: make -j2 runs two at once
build/notebooks/%.ipynb: notebooks/%.ipynb $(CODE) | venv
	OMP_NUM_THREADS=1 $(BIN)/python -m nbconvert --to notebook --execute --log-level WARN --KernelManager.transport_encryption auto \
		--output-dir $(@D) $<

docs: venv notebooks  ## build the documentation's site, with the notebooks' output
	@$(MKDOCS)
	@echo "documentation: build/site/index.html"

mlflow: venv  ## serve the MLflow UI on TRACKING (default: sqlite:///mlflow.db) at localhost:PORT (default: 5000)
	$(BIN)/mlflow server --backend-store-uri $(TRACKING) --host 127.0.0.1 --port $(PORT)

report: venv  ## tables and page of EXPERIMENT (default: demo) in OUT (default: report/EXPERIMENT)
	@$(BIN)/python -m analysis.report --experiment $(EXPERIMENT) --tracking-uri $(TRACKING) --out $(OUT)

lock: venv  ## resolve pyproject.toml's ranges anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header $(addprefix --extra ,$(EXTRAS)) --upgrade \
		pyproject.toml --output-file requirements.lock

clean:  ## remove what can be made again; not the runs
	rm -rf .venv build tests/browser/node_modules *.egg-info .pytest_cache .ruff_cache .mypy_cache
