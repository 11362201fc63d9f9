# Needs Python 3.11 or newer and a package registry; everything else goes into .venv.
# A stamp in .venv tells what was installed from which lock, so a second run is instant.

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
.PHONY: help demo test heavy lint bench tables survey lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## train, backdoor, calibrate, guard and serve a small network, and show what is caught
	$(BIN)/mmguard demo

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest

# pytest exits with 5 where no test is marked heavy.
heavy: $(VENV)/.dev ## run the tests that take minutes each
	$(BIN)/python -m pytest -m heavy || [ $$? -eq 5 ]

lint: $(VENV)/.dev ## check style, types and the import rule
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## guard a backdoored CIFAR-10 network and measure detection and time
	$(BIN)/python -m benchmarks.cifar_badnets

tables: $(VENV)/.dev ## write benchmarks/RESULTS.md from the JSONs
	$(BIN)/python -m benchmarks.tables

survey: $(VENV)/.dev $(VENV)/.survey ## try a small network of every family of timm, and others; hours on two cores
	$(BIN)/python -m benchmarks.survey

lock: $(VENV)/.dev ## resolve the locks anew, to the newest versions that pyproject.toml admits
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

# Apart and without a hash, because its builds differ by platform.
$(VENV)/.torch: $(VENV)/.made
	$(PIP) install $(TORCH)
	@touch $@

# No dependencies beyond the lock, which is whole but for torchvision, which timm asks for.
$(VENV)/.demo $(VENV)/.dev $(VENV)/.survey: $(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.torch
	$(PIP) install --require-hashes --no-deps -r $<
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
