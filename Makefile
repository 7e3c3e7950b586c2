# Everything a fresh clone needs: Python >= 3.11 with pip. `make demo` runs the main job, `make test` passes every test.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
CHAPTER ?=
PRESET  ?= laptop
PAGE    ?=
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
# The tests see eight devices, checked shapes, and no silent broadcasting between ranks.
TEST_ENV := XLA_FLAGS="--xla_force_host_platform_device_count=8" MIMO_JAX_CHECK_SHAPES=1 JAX_NUMPY_RANK_PROMOTION=raise MPLBACKEND=agg

.PHONY: help demo test lab book results bench pages lint clean
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mimo_jax needs Python >= 3.11: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# One stamp per set of extras: made again whenever pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".$(if $(filter core,$*),,[$*])"
	@touch $@

demo: $(VENV)/.installed-core  ## reproduce every chapter at the smoke preset and print the ledger of claims
	$(BIN)/mimo-jax reproduce --preset smoke

test: $(VENV)/.installed-dev lint  ## every test: lint, types, all notebooks, then pytest
	for part in nbs/index.ipynb nbs/*/; do $(TEST_ENV) $(BIN)/nbdev_test --path $$part --n_workers 2 || exit 1; done  # a process per part: compiled programs add up
	$(TEST_ENV) $(BIN)/python -m pytest

lint: $(VENV)/.installed-dev  ## ruff over notebooks and code, pyright over the package
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright --pythonpath $(BIN)/python

lab: $(VENV)/.installed-nb  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

book: $(VENV)/.installed-book  ## the book as HTML in book/_build/html; warnings are errors
	rm -rf book/_build book/api
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book -W --keep-going

results: $(VENV)/.installed-core  ## make results CHAPTER=autoencoder PRESET=laptop
	$(BIN)/mimo-jax reproduce $(CHAPTER) --preset $(PRESET)

bench: $(VENV)/.installed-core  ## speed, as ratios from one run
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

pages: $(VENV)/.installed-dev  ## execute, clean and export pages: make pages PAGE=nbs/00_core/01_units.ipynb
	$(BIN)/python book/pages.py $(PAGE)

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) book/_build book/api .jax_cache *.egg-info
