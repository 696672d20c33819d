# make demo and make test each work on a fresh clone; make setup does nothing when all is current.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_STAMP := .venv/.installed-demo
BENCH_STAMP := .venv/.installed-bench

.PHONY: demo test test-slow messages check bench docs setup clean

demo: $(DEMO_STAMP)
	$(BIN)/python -m legw demo

# Bytecode is kept, for the suite starts a hundred Pythons that would each compile the package.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	$(BIN)/python -m pytest --doctest-modules -n auto --dist loadfile -q -rs --durations=10

test-slow: setup
	$(BIN)/python -m pytest -m "slow or ci" -q -rs

# Messages to users, written anew to tests/golden/messages: read the difference, then commit it.
messages: setup
	$(BIN)/python -m pytest --rewrite-messages -n auto --dist loadfile -q tests

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide what strict counts

bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks

docs: setup
	$(BIN)/mkdocs build --strict

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(DEMO_STAMP) $(STAMP)

# What training and the report need, and nothing of what the tests need: a first look costs less.
$(DEMO_STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[train,report]'
	touch $(DEMO_STAMP)

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $(BENCH_STAMP)

clean:
	rm -rf .venv site dist .pytest_cache .mypy_cache .ruff_cache
