# make reproduce  notebooks with the laptop profile, claims, figures
# make test       linters, types, unit tests, every notebook with the tiny profile
# make test-fast  the same without notebooks and slow tests: under two minutes on two cores
# make lab        JupyterLab on copies of the notebooks in work/; LAB="--no-browser" passes options on
# make book       a site in build/book from executed notebooks: those of `make reproduce`, else the tiny profile
# make handout    student versions without solutions in build/handout
# make lock       renew requirements.lock from a fresh environment
# make clean      remove build products; the records and figures stay

SHELL := /bin/bash
BIN := .venv/bin
TORCH := 2.13.0
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c "$(NEW_ENOUGH)" >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: reproduce test test-fast lab book handout browser lock clean
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

# The browser tests need a Chromium; root, as in CI, installs Debian's where there is none.
test: browser
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null \
		|| echo "No Chromium on the PATH: the browser tests are left out."

lab: .venv/installed
	$(BIN)/python -m classroom.lab $(LAB)

book: .venv/installed
	$(BIN)/python -m classroom.book

handout: .venv/installed
	rm -rf build/handout
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --output-dir build/handout notebooks/*.ipynb \
		--TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags solution

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet -e '.[book,dev,eda,federated,scale,zh]' torch==$(TORCH)
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
