.DEFAULT_GOAL := help
.PHONY: help demo test check format peers bench clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# No model hub is asked for anything: what runs here needs none.
export HF_HUB_OFFLINE := 1

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/ready ## Run the whole of InstructGPT on the embedded world (a few minutes) and print who wins
	$(BIN)/rlhf-pipeline experiment=quickstart run_dir=runs/quickstart

# tests/distributed starts processes of its own, which wait for each other, so it has the machine to itself.
test: .venv/ready ## Run the tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal --ignore tests/distributed
	$(BIN)/python -m pytest tests/distributed

check: .venv/ready ## Lint, type-check and test: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

format: .venv/ready ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PEERS := trl-1.12.0 trl-1.16.0

.peers/%/ready: tests/benchmarks/peers/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

peers: $(PEERS:%=.peers/%/ready) ## Install what the benchmarks compare with, each in an environment of its own

bench: .venv/ready peers ## Run all benchmarks against their peers, which takes long, and write BENCHMARKS.md
	$(BIN)/python tests/benchmarks/bench.py --write BENCHMARKS.md

clean: ## Remove the virtual environment, runs and caches
	rm -rf .venv .peers runs outputs multirun build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
