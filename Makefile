# Each target makes .venv when it is missing, or when pyproject.toml or constraints.txt has changed.
#   make quickstart            train, measure and talk to a first model (ARGS="--minutes 2" passes options on)
#   make test                  the tests (ARGS="-k resume" passes options on)
#   make check                 lint and types
#   make clients               environments of the real clients (openai, anthropic ...) for the tests of the server
#   make soak                  the server under load for 20 minutes, then under too much of it
#   make bench                 lists the benchmarks behind the figures in docs/; ARGS="packing" runs one, ARGS=all every one
#   make clean                 remove .venv, caches and build outputs; runs/ stays
# Variables: PYTHON=python3.12 picks the interpreter; TORCH=cpu or TORCH=cuda picks torch's build where the registry offers both.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
ARGS ?=

BIN := $(VENV)/bin
# Through the environment, so that the versions also hold where pip builds the package (two names: pip 25.3 divided them).
PIP := PIP_CONSTRAINT="$(CURDIR)/constraints.txt" PIP_BUILD_CONSTRAINT="$(CURDIR)/constraints.txt" PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-warn-script-location

.PHONY: quickstart test check clients soak bench clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.runtime
	$(BIN)/quire quickstart $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

# Real clients, each in an environment of its own, pinned: what the tests of the server ask it with.
CLIENTS := $(patsubst tests/serve/clients/%.txt,.clients/%/.made,$(wildcard tests/serve/clients/*.txt))
clients: $(CLIENTS)

.clients/%/.made: tests/serve/clients/%.txt
	rm -rf .clients/$*
	$(PYTHON) -m venv .clients/$*
	PIP_DISABLE_PIP_VERSION_CHECK=1 .clients/$*/bin/python -m pip install --quiet -r $<
	touch $@

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean:
	rm -f quire/native/*.so
	rm -rf $(VENV) .clients build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find quire tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "quire needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@echo "Making $(VENV) ..."
	$(PYTHON) -m venv $(VENV)

# The build of torch that was asked for; without TORCH, whatever the registry gives for this machine.
$(VENV)/.torch-: | $(BIN)/python
	@touch $@

$(VENV)/.torch-cpu: | $(BIN)/python
	@echo "Installing torch $(TORCH_VERSION) for CPU ..."
	$(PIP) --no-deps --extra-index-url $(TORCH_INDEX) "torch==$(TORCH_VERSION)$(if $(filter Darwin,$(shell uname)),,+cpu)"
	@rm -f $(VENV)/.torch-*; touch $@

$(VENV)/.torch-cuda: | $(BIN)/python
	@echo "Installing torch $(TORCH_VERSION) for CUDA ..."
	$(PIP) --no-deps "torch===$(TORCH_VERSION)"
	@rm -f $(VENV)/.torch-*; touch $@

KERNELS := hatch_build.py quire/native/build.py $(wildcard quire/native/*.cpp quire/native/*.h)

$(VENV)/.runtime: pyproject.toml constraints.txt $(KERNELS) $(VENV)/.torch-$(TORCH)
	@echo "Installing quire and what it needs to run ..."
	$(PIP) -e ".[fast]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(KERNELS) $(VENV)/.torch-$(TORCH)
	@echo "Installing quire and what its tests need ..."
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.runtime
