# `make demo` and `make test` need only Python 3.11+, make and pip: they make their own environment in .venv,
# use it again while pyproject.toml stays as it is, and take an environment that is already active instead.
PYTHON ?= python3
ENV := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),.venv)
BIN := $(ENV)/bin
# Written once this checkout is installed in that environment.
READY := $(ENV)/.pyro_vae-$(firstword $(shell echo '$(CURDIR)' | cksum))

.PHONY: demo test test-all lint format bench gpu docs links wheel clean

demo: $(READY)
	rm -rf demo
	$(BIN)/pyro-vae demo --out demo

# Each worker has one thread (conftest.py) and whole modules, whose tests share what they have trained.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadscope --durations 25

test: $(READY)
	$(PYTEST) -m 'not slow'

test-all: $(READY)
	$(PYTEST) $(TESTS)

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[bench]'
	$(BIN)/python benchmarks/svi_step.py --data-root $(DATA)

# Installs nothing, so that it also runs where there is no network: in .venv or the active environment, else by PYTHON.
DEVICE ?= cuda
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py --data-root $(DATA) --device $(DEVICE) $(GPU)

docs: $(READY).docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

links: $(READY).docs
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

$(READY).docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# Builds the wheel, and tries it alone in an empty environment.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/wheel && bin/pyro-vae demo --out demo && bin/pyro-vae report demo

clean:
	rm -rf .venv demo build docs/_build docs/api/generated docs/examples dist .pytest_cache .mypy_cache .ruff_cache
