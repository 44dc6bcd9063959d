# make reproduce  notebooks with the laptop profile, claims, figures
# make test       linters, types, unit tests, every notebook with the tiny profile
# make test-fast  the same without notebooks and slow tests: under two minutes on two cores
# make lab        JupyterLab on the notebooks
# make lock       renew requirements.lock from a fresh environment
# make clean      remove build products; the records and figures stay

SHELL := /bin/bash
BIN := .venv/bin
TORCH := 2.13.0
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c "$(NEW_ENOUGH)" >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: reproduce test test-fast lab lock clean
.DEFAULT_GOAL := reproduce

reproduce: .venv/installed
	$(BIN)/confit run all --profile laptop
	$(BIN)/confit claims --profile laptop
	$(BIN)/confit figures --profile laptop

test-fast: CHOICE := -m "not notebook and not slow"
test test-fast: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup $(CHOICE)

lab: .venv/installed
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet -e '.[dev,eda,federated,scale,zh]' torch==$(TORCH)
	grep '^#' requirements.lock > build/requirements.lock
	build/lock/bin/python -m pip freeze --all --exclude-editable | sed 's/+.*//' \
		| grep -v -i -E '^(nvidia|cuda|triton|pip=)' >> build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Rebuilt whenever the pins change.
.venv/installed: requirements.lock pyproject.toml
ifeq ($(PYTHON),)
	$(error No Python 3.11 or newer on the PATH. Install one, or name it: make PYTHON=/path/to/python3.11)
endif
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@
