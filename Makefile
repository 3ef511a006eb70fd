# Everything happens in .venv; nothing outside this folder is changed.
#   make demo    install with JAX and watch a small network train
#   make test    install everything the tests need, then run the whole suite
#   make check   lint, format and types
#   make bench   the measurements behind the README's figures
#   make page    build the page of `fitscope ui` (needs Node 18 or newer)
#   make screenshots   of the page, into docs/images

VENV := .venv
BIN := $(VENV)/bin
OLDEST := $(VENV)/oldest
# The first interpreter that is new enough; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements/constraints.txt
PYTEST := $(BIN)/python -m pytest
# More options for every pytest call: make test ARGS="-x -k ring"
ARGS ?=
# Test processes at once; what each prints comes when it is done.
JOBS ?= 2

# Each runs once per backend, in a process of its own: Keras fixes its backend at import.
BACKENDS := jax tensorflow torch
OLDEST_KERAS := 3.8.0
# Of the same month: later releases of JAX removed what that Keras calls.
OLDEST_JAX := 0.5.0
PER_BACKEND := tests/engine tests/scope tests/values tests/edits
TENSORFLOW := nojit or test_truth or test_tensorflow or sequential or convolutions or custom_step
TENSORFLOW_SCOPE := smoke conclusion planted_failures capsule editing objective

REQUIREMENTS := pyproject.toml requirements/constraints.txt hatch_build.py

.PHONY: page browser screenshots demo test test-all test-common test-oldest \
	test-tensorflow-some test-tensorflow-more $(BACKENDS:%=test-%) bench clean \
	check check-lint check-format check-types format

demo: $(VENV)/.stamp-demo
	$(BIN)/fitscope demo

# The whole suite runs on torch. On JAX and TensorFlow trainings are compared bit for bit for some of
# the models (tests/engine/zoo.py says which), and TensorFlow leaves out a few tests with XLA that
# watch no values; the rest, half an hour of compiling, with `make test-all`.
PARALLEL := $(MAKE) --jobs=$(JOBS) --output-sync=target

test: $(VENV)/.stamp-test page browser
	+$(PARALLEL) test-tensorflow-some test-jax test-common test-tensorflow-more test-torch test-oldest

test-all: export FITSCOPE_TEST_ALL = 1
test-all: $(VENV)/.stamp-test page browser
	+$(PARALLEL) $(BACKENDS:%=test-%) test-common test-oldest

test-tensorflow-some: $(VENV)/.stamp-test
	KERAS_BACKEND=tensorflow $(PYTEST) tests/engine -k "$(TENSORFLOW)" $(ARGS)

test-tensorflow-more: $(VENV)/.stamp-test
	KERAS_BACKEND=tensorflow $(PYTEST) $(TENSORFLOW_SCOPE:%=tests/scope/test_%.py) tests/values tests/edits $(ARGS)

test-common: $(VENV)/.stamp-test page browser
	KERAS_BACKEND=jax $(PYTEST) tests $(PER_BACKEND:%=--ignore=%) $(ARGS)

$(BACKENDS:%=test-%): test-%: $(VENV)/.stamp-test
	KERAS_BACKEND=$* $(PYTEST) $(PER_BACKEND) $(ARGS)

test-oldest: $(OLDEST)/.stamp
	failed=; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend PYTHONPATH="$(CURDIR)/$(OLDEST)/keras:$(CURDIR)/$(OLDEST)/$$backend" \
			$(PYTEST) $(PER_BACKEND) -m oldest_keras $(ARGS) || failed="$$failed $$backend"; \
	done; test -z "$$failed" || { echo "failed on the oldest Keras with:$$failed" >&2; exit 1; }

# Does nothing when what was built is newer than its source.
page: | $(VENV)/bin/python
	$(BIN)/python hatch_build.py

# The tests of the page run in a real browser; FITSCOPE_CHROMIUM names one that is elsewhere.
browser:
	@if [ -n "$$FITSCOPE_CHROMIUM" ]; then :; \
	elif for b in chromium chromium-browser google-chrome; do command -v $$b && break; done | grep -q .; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium >/dev/null; \
	else echo "The tests of the page need Chromium: install it (Debian: apt-get install chromium, as root), or set FITSCOPE_CHROMIUM to its path." >&2; exit 1; fi

screenshots: $(VENV)/.stamp-test page browser
	KERAS_BACKEND=jax $(BIN)/python -m benchmarks.screenshots

check: check-lint check-format check-types

check-lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .

check-format: $(VENV)/.stamp-test
	$(BIN)/ruff format --check .

check-types: $(VENV)/.stamp-test
	$(BIN)/pyright

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.stamp-test
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis page/node_modules src/fitscope/ui/static

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-demo: $(REQUIREMENTS) | $(VENV)/bin/python
	$(INSTALL) --editable ".[jax,demo]"
	@touch $@

# torch first and by its exact version: a CPU build offered for that version is then taken, where
# a plain requirement would look for the newest release and its gigabytes of CUDA libraries.
$(VENV)/.stamp-test: $(REQUIREMENTS) | $(VENV)/bin/python
	$(INSTALL) "$$(grep '^torch==' requirements/constraints.txt)"
	$(INSTALL) --editable ".[all,test]"
	@touch $@ $(VENV)/.stamp-demo

# Beside the environment, not in it: PYTHONPATH puts them before the current releases.
$(OLDEST)/.stamp: $(VENV)/.stamp-test
	rm -rf $(OLDEST)
	$(PIP) install --quiet --no-deps --target $(OLDEST)/keras keras==$(OLDEST_KERAS)
	$(PIP) install --quiet --no-deps --target $(OLDEST)/jax jax==$(OLDEST_JAX) jaxlib==$(OLDEST_JAX)
	@touch $@
