# Needs Python 3.11 or newer and access to a package registry; everything else is installed into .venv.
# Stamp files in .venv record what was installed from which lock file, so a second run installs nothing.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0

UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --annotation-style line --override requirements/without-torch.txt \
	--custom-compile-command 'make lock' --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test heavy lint docs bench tables survey lock clean

help: ## list all targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## train, backdoor, calibrate, guard and serve a small network, and show what the guard catches
	$(BIN)/mmguard demo

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest

# pytest exits with 5 if no test is marked heavy.
heavy: $(VENV)/.dev ## run the tests that take minutes each
	$(BIN)/python -m pytest -m heavy || [ $$? -eq 5 ]

lint: $(VENV)/.dev ## check style, types and the import rule
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## build the documentation into build/docs, treating warnings as errors
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs build/docs

bench: $(VENV)/.dev ## guard a backdoored CIFAR-10 network and measure detection and time
	$(BIN)/python -m benchmarks.cifar_badnets

tables: $(VENV)/.dev ## write benchmarks/RESULTS.md from the JSONs
	$(BIN)/python -m benchmarks.tables

survey: $(VENV)/.dev $(VENV)/.survey ## try a small network of every timm family, and other networks; takes hours on two cores
	$(BIN)/python -m benchmarks.survey

lock: $(VENV)/.dev ## update the lock files to the newest versions that pyproject.toml allows
	$(UV_COMPILE) --upgrade --extra demo --group dev --output-file requirements/dev.txt
	$(UV_COMPILE) --upgrade --extra demo --group build --constraint requirements/dev.txt \
		--output-file requirements/demo.txt
	$(UV_COMPILE) --upgrade --extra demo --group survey --constraint requirements/dev.txt \
		--output-file requirements/survey.txt

clean: ## remove the environment, the caches and the builds
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find mmguard tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# PyTorch is installed separately and without a hash, because its builds differ by platform.
$(VENV)/.torch: $(VENV)/.made
	$(PIP) install $(TORCH)
	@touch $@

# --no-deps, because each lock file lists all dependencies except torchvision, which timm declares and is left out.
$(VENV)/.demo $(VENV)/.dev $(VENV)/.survey: $(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.torch
	$(PIP) install --require-hashes --no-deps -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
