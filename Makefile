# Each target sets up what it needs in .venv, once, with Python, pip and make alone: `make demo` what runs (requirements.lock), the
# others also what tests, checks and documents (requirements-dev.lock).
# Another Python than the first fitting one on PATH:  make PYTHON=/path/to/python3.12 test

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo examples test lint docs bench laws lock clean

PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.complete
READY_DEV := $(VENV)/.complete-dev
PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-input

help:  ## Say what can be made (this text)
	@echo "make demo [DATA=FILE] [SMALL=1]   run the whole loop once, on simulated data or on FILE, into ./demo"
	@echo "make examples [EXAMPLE=NAME]      run the loop on the public data of examples/, or of one, into build/examples"
	@echo "make test                         run all tests"
	@echo "make laws                         run the laws that every store must obey, with many more random cases"
	@echo "make lint                         ruff with all rules, mypy strict, the import contracts"
	@echo "make docs                         build the documentation as a site into build/site"
	@echo "make bench                        measure against what one would otherwise use"
	@echo "make lock                         renew requirements.lock and requirements-dev.lock (needs uv)"
	@echo "make clean                        remove .venv, ./demo and caches (stops the demo's Redis first)"

demo: $(READY)
	@$(RUN) -m asof demo --into demo $(if $(DATA),--data "$(DATA)") $(if $(SMALL),--small)

examples: $(READY_DEV)
	@$(RUN) -m examples $(EXAMPLE) $(if $(SMALL),--small)

test: $(READY_DEV)
	@$(RUN) -m pytest

laws: $(READY_DEV)
	@ASOF_LAW_CASES=100000 ASOF_LAW_HISTORIES=10000 $(RUN) -m pytest tests/laws --hypothesis-profile thorough --timeout 3600

lint: $(READY_DEV)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache

docs: $(READY_DEV)
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict && echo "build/site/index.html"

bench: $(READY_DEV)
	@for area in $(patsubst benchmarks/%/__main__.py,%,$(wildcard benchmarks/*/__main__.py)); do \
	  echo "== $$area"; $(RUN) -m benchmarks $$area || exit 1; done

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command "make lock" --annotation-style line pyproject.toml

# What runs is locked at the versions that were tested.
lock:
	@$(LOCK) --extra dev --extra docs --extra examples --output-file requirements-dev.lock
	@$(LOCK) --extra install --constraint requirements-dev.lock --output-file requirements.lock

clean:
	@if [ -x $(RUN) ] && [ -f demo/feature_repo/feature_store.yaml ]; then \
	  $(RUN) -m asof --repo demo/feature_repo redis stop >/dev/null 2>&1 || true; fi
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The last act of a complete setup is the file .complete. An environment of ours without it, or older than the lock or the
# project file, is made anew from nothing; a .venv that somebody else made is installed into, never deleted.
$(READY): requirements.lock pyproject.toml
	@set -e; python=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 /usr/bin/python3 /usr/local/bin/python3); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: found $$("$(or $(PYTHON),python3)" --version 2>&1), expected Python 3.11 or 3.12 with venv and pip;" \
	    "install one (Debian: python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$("$$python" --version) from requirements.lock (once, a few minutes)" >&2; \
	if [ -e $(VENV)/.ours ]; then rm -rf $(VENV); fi; \
	if [ ! -d $(VENV) ]; then mkdir $(VENV); touch $(VENV)/.ours; fi; \
	"$$python" -m venv $(VENV); \
	$(PIP_INSTALL) --require-hashes -r requirements.lock; \
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .; \
	touch $@

$(READY_DEV): $(READY) requirements-dev.lock
	@echo "Adding what tests and documents from requirements-dev.lock (once, a minute)" >&2; \
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock && touch $@
