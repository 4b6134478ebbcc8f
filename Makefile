# `make` lists what can be done. Everything runs in .venv, which the first call sets up.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO ?= demo
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab notebooks readme bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## set up .venv with everything (done by the others on their own)

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rfcx_kit needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up .venv (once, a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -U pip
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@

demo: $(READY) ## a synthetic rainforest, from a few labels to a scored submission and a report (some minutes)
	@$(BIN)/rfcx synth $(DEMO)/corpus
	@$(BIN)/rfcx run --corpus $(DEMO)/corpus --recipe demo --out $(DEMO)/run

test: $(READY) ## all tests: every notebook in a process of its own, and tests/
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations 8 tests

lab: $(READY) ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir nbs

notebooks: $(READY) ## after editing notebooks: clean them, export the library, make the README
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export
	@$(MAKE) --no-print-directory readme

readme: $(READY) ## README.md from nbs/index.ipynb
	@$(BIN)/jupyter nbconvert --log-level=ERROR --to markdown --stdout nbs/index.ipynb > README.md

bench: $(READY) ## speed and memory on this machine, beside the plain way
	@$(BIN)/rfcx bench

clean: ## remove what the demo made
	@rm -rf $(DEMO)
