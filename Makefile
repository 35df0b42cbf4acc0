# make run     own virtual environment, install, then a sweep on built-in data
# make test    own virtual environment, install, lint, types, every test that one node is enough for
# make test-cluster    the tests on several nodes, those of a Slurm and simulated ones; they say what they lack
# make bench   own virtual environment, install, every measurement that needs no GPU, as one table
#
# make run ARGS="family=compare trainer.epochs=3"          other settings, see python -m tune_app.run --help
# make run TORCH="torch==2.13.0 --index-url …"             another build of PyTorch, see README.md; remembered
# make run PYTHON=python3.12                               another Python

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
ARGS ?= family=seesaw
TEST_PROCESSES ?= 3

# The build of PyTorch that was asked for lasts: a later plain `make run` must not replace a CUDA build.
DEFAULT_TORCH := torch==2.13.0
ifneq ($(filter command environment,$(firstword $(origin TORCH))),)
ASKED_TORCH := $(TORCH)
else
TORCH := $(or $(shell cat $(VENV)/.torch 2>/dev/null),$(DEFAULT_TORCH))
endif
TORCH_STAMP := $(VENV)/.torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)

PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: run test test-cluster bench check install install-dev docs constraints clean

run: install
	$(BIN)/python -m tune_app.run $(ARGS)

# A file of tests to each process: two files share neither a Ray nor a module's fixtures. Sweeps wait a third of their time,
# so that three processes keep two cores busy.
test: check
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slurm and not nodes"

test-cluster: install-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slurm or nodes"

# BENCH="loss memory" for some of them; --write puts the table into docs/performance.md.
bench: install-dev
	$(BIN)/python -m benchmarks $(BENCH)

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

docs: install-dev
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/check_links.py

constraints: install-dev
	{ grep '^#' $(CONSTRAINTS); $(BIN)/python .ci/pins.py; } > $(CONSTRAINTS).new
	mv $(CONSTRAINTS).new $(CONSTRAINTS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find tune_app search_spaces trainables cluster tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is %d.%d. Choose another: make PYTHON=python3.12" % sys.version_info[:2])'
	@command -v c++ >/dev/null || echo "note: no C++ compiler (c++) found: torch.compile needs one, or trainer.compile=false"
	$(PYTHON) -m venv $(VENV)

$(TORCH_STAMP): | $(BIN)/python
	@echo "installing $(TORCH); the first time this takes minutes"
	$(PIP) $(TORCH)
	@rm -f $(VENV)/.torch-* $(VENV)/.torch
	@$(if $(ASKED_TORCH),printf '%s\n' '$(TORCH)' > $(VENV)/.torch,:)
	@touch $@

$(VENV)/.installed: $(TORCH_STAMP) pyproject.toml $(CONSTRAINTS)
	$(PIP) -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -c $(CONSTRAINTS) -e .[dev]
	@touch $@
