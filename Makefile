# Each target makes its own environment in .venv, again whenever the packaging changes.
#   make demo    trains a teacher, distils it three ways, compares them: under ten minutes, installing included
#   make test    lint and tests;  make test-slow  the long ones
#   make docs    the documentation site in site/, without a network
# With a GPU: make clean, then make demo CONSTRAINTS=     (takes the newest torch instead of the pinned one)

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
DEMO_DIR ?= demo
WORKERS ?= 2

STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-slow lint docs clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/hf-weight-distill demo --output_dir $(DEMO_DIR)

test: lint
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(STAMP)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(DEMO_DIR) site build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]" $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	touch $@
