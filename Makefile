# Everything a contributor or a CI job runs, from a fresh clone, with only Python and make.
# Each target installs what it needs and no more, once, and again when pyproject.toml changes.

PYTHON ?= python3
# NumPy 2.0 has no wheels for the newest Python; the newest JAX no longer runs on the oldest.
# Looked for only when a target needs them.
OLDEST_PYTHON ?= $(shell .ci/find-python 3.11)
NEWEST_PYTHON ?= $(shell .ci/find-python 3.13)
VENV ?= .venv
VENV_OLDEST ?= .venv-oldest
VENV_NEWEST ?= .venv-newest
VENV_WHEEL ?= .venv-wheel
WORKERS ?= 2
# Which tests; all of them by default.
TESTS ?=
# Most tests see eight devices. With one, the kernel lays samples side by side.
ONE_DEVICE := tests/kernels/test_device.py
# These are about what XLA makes of programs, so they are not compiled quickly, as all others are.
COMPILER := tests/kernels/test_floats.py tests/test_compat.py tests/test_fusion.py

BIN := $(VENV)/bin
# Quieter than -q: pip's errors still show, its remarks about the machine's package index do not.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two set-ups at once would write to the same environment.
.NOTPARALLEL:
.PHONY: help demo examples test test-oldest test-newest lint types format docs wheel bench proof clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready-examples  ## train a small network, prune it in three ways, cut it in half, prune its saved file
	@$(BIN)/python examples/demo.py
	@echo; echo 'A saved network, from the command line:'
	$(BIN)/jaxprune prune demo/net.npz -o demo/sparse.npz --sparsity 0.9 --skip 'head/*'
	$(BIN)/jaxprune report demo/sparse.npz --html demo/report.html
	@echo; echo 'Look at demo/accuracy.png, and open demo/report.html in a browser.'

examples: $(VENV)/.ready-examples  ## run every example but the demo
	@printf '%s\n' $(filter-out examples/demo.py,$(wildcard examples/*.py)) | xargs -P $(WORKERS) -I {} sh -c \
	  'output=$$($(BIN)/python {} 2>&1); code=$$?; printf -- "--- %s\n%s\n" {} "$$output"; exit $$code'

test: $(VENV)/.ready-test  ## run the tests, and the code of the README, docs and docstrings
ifdef TESTS
	$(BIN)/python -m pytest -n $(WORKERS) $(TESTS)
else
	TEST_COMPILER=quick $(BIN)/python -m pytest -n $(WORKERS)
	TEST_COMPILER=quick TEST_DEVICES=1 $(BIN)/python -m pytest -n $(WORKERS) --dist load $(ONE_DEVICE)
	$(BIN)/python -m pytest -n $(WORKERS) $(COMPILER)
endif

test-oldest: $(VENV_OLDEST)/.ready-test  ## the same on the oldest supported versions
	$(VENV_OLDEST)/bin/python -m pytest -n $(WORKERS) $(TESTS)

# What is newest changes from day to day, so this environment is brought up to date every time.
test-newest: | $(VENV_NEWEST)/.created  ## the same on the newest Python, with the newest versions it can have
	$(VENV_NEWEST)/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable '.[test]'
	@$(VENV_NEWEST)/bin/python -c 'import jax, platform; print("Python", platform.python_version(), "with JAX", jax.__version__)'
	$(VENV_NEWEST)/bin/python -m pytest -n $(WORKERS) $(TESTS)

lint: $(VENV)/.ready-lint  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

types: $(VENV)/.ready-lint  ## check types alone
	$(BIN)/mypy

format: $(VENV)/.ready-lint  ## format the code, and fix what can be fixed safely
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/.ready-docs  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

wheel: | $(VENV)/.created  ## build the wheel, and try it in an environment of its own
	rm -rf dist
	$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m venv --clear $(VENV_WHEEL)
	$(VENV_WHEEL)/bin/python $(PIP_INSTALL) dist/*.whl
	cd dist && ../$(VENV_WHEEL)/bin/python -W error ../.ci/readme.py
	cd dist && ../$(VENV_WHEEL)/bin/jaxprune --version

bench: $(VENV)/.ready-bench  ## measure against the rivals that can be installed
	$(BIN)/python -m benchmarks

PROOF := $(BIN)/python -m benchmarks.proof --seeds 3
WITH_DATA := $(BIN)/python -m benchmarks.proof.with_data --seeds 3
SMALLER := $(BIN)/python -m benchmarks.proof.smaller --seeds 3
RESULTS := benchmarks/proof/results
MOMENTUM_METHODS := dense fine-tuned gradual static SET RigL AC/DC "pruned at a tenth"
TEXT_METHODS := dense one-shot "one-shot, uniform" "one-shot, global" fine-tuned gradual \
  "gradual, global" static SET RigL AC/DC SR-STE "lottery, early" \
  "one-shot, 2:4" "fine-tuned, 2:4" "SR-STE, 2:4"

proof: $(VENV)/.ready-proof  ## train by every method, on real data, over seeds, and draw it: an hour
	$(PROOF) --model mlp --steps 2000 --sparsities 0.5 0.8 0.9 0.95 0.98 --save $(RESULTS)/mlp.json
	$(PROOF) --model mlp --steps 2000 --sparsities 0.9 0.98 --optimizer momentum \
	  --methods $(MOMENTUM_METHODS) --save $(RESULTS)/mlp-momentum.json
	$(PROOF) --model mlp --steps 8000 --sparsities 0.98 --save $(RESULTS)/mlp-long.json \
	  --methods fine-tuned gradual AC/DC "pruned at a tenth"
	$(PROOF) --model conv --steps 600 --sparsities 0.5 0.9 0.98 --save $(RESULTS)/conv.json
	$(PROOF) --model text --steps 1000 --sparsities 0.5 0.9 0.98 --save $(RESULTS)/text.json \
	  --methods $(TEXT_METHODS)
	$(BIN)/python -m benchmarks.proof.show $(RESULTS)/mlp.json $(RESULTS)/conv.json $(RESULTS)/text.json \
	  $(RESULTS)/mlp-momentum.json $(RESULTS)/mlp-long.json --picture docs/results.svg \
	  --summary docs/pictures/accuracy.svg
	$(WITH_DATA) --model text --steps 6000 --save $(RESULTS)/text-with-data.json
	$(WITH_DATA) --model conv --steps 2000 --save $(RESULTS)/conv-with-data.json
	$(BIN)/python -m benchmarks.proof.show_with_data $(RESULTS)/text-with-data.json \
	  $(RESULTS)/conv-with-data.json --picture docs/pictures/with-data.svg
	$(SMALLER) --model conv --steps 2000 --save $(RESULTS)/conv-smaller.json
	$(SMALLER) --model text --steps 3000 --save $(RESULTS)/text-smaller.json
	$(BIN)/python -m benchmarks.proof.show_smaller $(RESULTS)/conv-smaller.json \
	  $(RESULTS)/text-smaller.json --picture docs/pictures/smaller.svg

clean:  ## remove environments, caches and built files
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_NEWEST) $(VENV_WHEEL) demo site dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: a stamp is written only when all of its work is done, so an interrupted one starts over

# $(call create-venv,python,directory)
define create-venv
	@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: '$(1)' is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(1) -m venv --clear $(2)
	@touch $@
endef

$(VENV)/.created:
	$(call create-venv,$(PYTHON),$(VENV))

$(VENV)/.ready-%: pyproject.toml | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(VENV)/.ready-bench: pyproject.toml | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[examples]'
	$(BIN)/python $(PIP_INSTALL) --editable '.[bench]' || \
	  echo "PyTorch cannot be installed here: going on without this rival"
	@touch $@

# $(call need-python,path,variable,versions); `.ci/find-python` has said what it could not find
define need-python
	@command -v "$(1)" >/dev/null || \
	  { echo "error: '$(1)' is no command; name a Python $(3): make $(2)=..." >&2; exit 1; }
endef

$(VENV_NEWEST)/.created:
	$(call need-python,$(NEWEST_PYTHON),NEWEST_PYTHON,3.13)
	$(call create-venv,$(NEWEST_PYTHON),$(VENV_NEWEST))

$(VENV_OLDEST)/.created:
	$(call need-python,$(OLDEST_PYTHON),OLDEST_PYTHON,3.11 or 3.12)
	$(call create-venv,$(OLDEST_PYTHON),$(VENV_OLDEST))

$(VENV_OLDEST)/.ready-test: pyproject.toml .ci/oldest.txt | $(VENV_OLDEST)/.created
	$(VENV_OLDEST)/bin/python $(PIP_INSTALL) --constraint .ci/oldest.txt --editable '.[test]'
	@touch $@
