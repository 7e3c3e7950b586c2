# Everything a fresh clone needs: Python >= 3.11 with pip. `make demo` runs the main job, `make test` every test.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
CHAPTER ?=
PRESET  ?= laptop
PAGE    ?=
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
# Python keeps what it compiled, even where told not to: a test of a command is a process of its own.
unexport PYTHONDONTWRITEBYTECODE
# The tests see eight devices, checked shapes, no silent broadcasting, and programs that compile fast.
TEST_ENV := XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1" MIMO_JAX_CHECK_SHAPES=1 \
            JAX_NUMPY_RANK_PROMOTION=raise MPLBACKEND=agg
# What `make test` tests: one folder of nbs/, by its name with or without number, or everything.
FOLDERS := $(if $(CHAPTER),$(wildcard nbs/$(CHAPTER)/ nbs/[0-9][0-9]_$(CHAPTER)/),nbs/index.ipynb $(wildcard nbs/*/))

.PHONY: help demo test fuzz lab book results bench pages lint clean
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or \
	  sys.exit("mimo_jax needs Python >= 3.11: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# One stamp per set of extras: made again whenever pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".$(if $(filter core,$*),,[$*])"
	@touch $@

demo: $(VENV)/.installed-core  ## reproduce every chapter at the smoke preset and sum up its claims
	$(BIN)/mimo-jax reproduce --preset smoke

# A process per folder of pages: compiled programs add up, and one process may map only so many. And one
# for the tests that start Ray with keys, which a process that had Ray without them cannot.
test: $(VENV)/.installed-dev lint  ## lint, types, all pages, pytest; CHAPTER=52_csi: its pages and the tests that import it
	@files=$$($(BIN)/python tests/belongs.py $(CHAPTER)) && echo "test files: $${files:-none}"
	for folder in $(FOLDERS); do \
	  $(TEST_ENV) $(BIN)/nbdev_test --path $$folder --n_workers 2 --timing || exit 1; done
	for file in $$($(BIN)/python tests/belongs.py $(CHAPTER)); do \
	    case $$file in *test_split_network.py) alone=$$file;; *) rest="$$rest $$file";; esac; done; \
	  for files in "$$rest" "$$alone"; do [ -z "$$files" ] || \
	    $(TEST_ENV) $(BIN)/python -m pytest --durations 10 $$files || exit 1; done

fuzz: $(VENV)/.installed-dev  ## 10,000 command lines, damaged files and stopped runs, others each time
	MIMO_JAX_FUZZ=10000 MPLBACKEND=agg $(BIN)/python -m pytest --durations 10 tests/fuzz

lint: $(VENV)/.installed-dev  ## ruff over notebooks and code, pyright over the package
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright --pythonpath $(BIN)/python

lab: $(VENV)/.installed-nb  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs $(if $(filter 0,$(shell id -u)),--allow-root)

book: $(VENV)/.installed-book  ## the book as HTML in book/_build/html; warnings are errors
	rm -rf book/_build book/api book/ledger.md
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book -W --keep-going

results: $(VENV)/.installed-core  ## run chapters: make results CHAPTER=autoencoder PRESET=laptop
	$(BIN)/mimo-jax reproduce $(CHAPTER) --preset $(PRESET)

bench: $(VENV)/.installed-core  ## speed, as ratios from one run
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

pages: $(VENV)/.installed-dev  ## execute, clean, export: make pages PAGE=nbs/00_core/01_units.ipynb
	$(BIN)/python book/pages.py $(PAGE)

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) book/_build book/api book/ledger.md .jax_cache *.egg-info
