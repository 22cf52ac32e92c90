# `make demo` trains the example; `make test` runs the suite. Both make what they need: Python and pip are enough.
#
#   PYTHON=python3.12   the interpreter for the virtual environment
#   JAX_VERSION=0.10.0  this JAX instead of the newest one that pip finds, in an environment of its own
#   PYTEST_ARGS="-k x"  more arguments for pytest. Of sweeps with many cases a run of the whole suite has a quarter;
#                       --every=1 for all of them, --slow=all for the slow ones too
#   WORKERS=auto        pytest-xdist's -n

PYTHON ?= python3
JAX_VERSION ?=
WORKERS ?= auto
PYTEST_ARGS ?=
FUZZ_ARGS ?=
DEMO_ARGS ?=
EXAMPLES_ARGS ?=

VENV ?= $(if $(JAX_VERSION),.venv-jax$(JAX_VERSION),.venv)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# In every install of that environment, so that a later extra can't move JAX.
JAX_PIN := $(if $(JAX_VERSION),jax==$(JAX_VERSION) jaxlib==$(JAX_VERSION))
NEWEST := .venv-newest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo examples test test-newest lint format format-check types doctest docs reference fuzz coverage wheel-check bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

# One stamp per extra: pip runs again only when pyproject.toml changes.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.with-%: $(VENV)/.made pyproject.toml
	$(PIP) install --quiet -e '.[$*]' $(JAX_PIN)
	@touch $@

demo: $(VENV)/.with-examples  ## train the convolutional net of examples/digits.py on real images
	$(BIN)/python examples/digits.py $(DEMO_ARGS)

# finetune.py and port_pytorch.py begin with a model of PyTorch's: the extra of the tests has it.
examples: $(VENV)/.with-test  ## run every example (about 15 minutes), write the table out/examples.md
	$(BIN)/python examples/run_all.py $(EXAMPLES_ARGS)

# Without a working torch tests/parity isn't collected; here that must be an error.
test: $(VENV)/.with-test  ## the suite (a quarter of its sweeps), with torch as the oracle
	@$(BIN)/python -c 'import jax, torch; print(f"jax {jax.__version__}, oracle torch {torch.__version__}")'
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-newest:  ## the suite without the oracle: newest JAX, newest Python on this machine
	@python=$$(.ci/newest-python); \
	if [ -z "$$python" ]; then \
	    echo "test-newest: no Python newer than 3.11 on this machine, nothing run"; exit 0; \
	fi; \
	$(MAKE) --no-print-directory test-no-oracle PYTHON="$$python" VENV=$(NEWEST) JAX_VERSION=

.PHONY: test-no-oracle
test-no-oracle: $(VENV)/.with-test-no-oracle
	@$(BIN)/python -c 'import jax, sys; print(f"jax {jax.__version__}, Python {sys.version.split()[0]}, no oracle")'
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore=tests/parity $(PYTEST_ARGS)

lint: $(VENV)/.with-dev  ## ruff check
	$(BIN)/ruff check .

format: $(VENV)/.with-dev  ## ruff format, and the fixes that ruff can make itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(VENV)/.with-dev  ## is everything formatted?
	$(BIN)/ruff format --check .

types: $(VENV)/.with-dev  ## pyright on the package
	$(BIN)/pyright --pythonpath $(BIN)/python

doctest: $(VENV)/.with-test  ## every example of the docstrings, README.md and docs/
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/test_docs.py $(PYTEST_ARGS)

docs: $(VENV)/.with-docs  ## docs/ as a site in ./site
	$(BIN)/mkdocs build --strict --quiet

reference: $(VENV)/.with-test  ## docs/api: the pages of the reference, a line for each public name
	$(BIN)/python .ci/api_pages.py

fuzz: $(VENV)/.with-test  ## damaged files for jm.load, until it is stopped or FUZZ_ARGS says
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

coverage: $(VENV)/.with-test  ## docs/coverage.md: what of torch.nn is here
	$(BIN)/python -m tests.parity.coverage > docs/coverage.md.new
	mv docs/coverage.md.new docs/coverage.md

wheel-check:  ## build the wheel, install it into an empty environment, run a model there
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	build/wheel/venv/bin/python -m pip --disable-pip-version-check install --quiet build/wheel/*.whl $(JAX_PIN)
	cd build/wheel && venv/bin/python -I ../../.ci/wheel_check.py

bench: $(VENV)/.with-bench  ## the table of README.md
	$(BIN)/python benchmarks/dispatch.py --markdown

clean:  ## remove everything that make made
	rm -rf .venv .venv-jax* $(NEWEST) build dist site out .pytest_cache .ruff_cache .hypothesis
