# Two commands do everything, each on its own: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint docs bench bench-full bench-readme bench-mergekit clean

demo: $(INSTALLED)
	PATH="$(BIN):$$PATH" bash examples/topoflow/demo.sh

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/reference/generate.py

# 1 GB, some minutes; bench-full 5 GB, most of an hour and 12 GB of disk. Results go to bench/results.json, bench-readme to the README.
bench bench-full: $(INSTALLED)
	$(BIN)/python -m benchmarks --size $(if $(filter bench-full,$@),5GB,1GB)

bench-readme: $(INSTALLED)
	$(BIN)/python -m benchmarks.readme

# mergekit for comparison, in an environment of its own; without it, it is reported as not run
bench-mergekit: $(INSTALLED)
	$(PYTHON) -m venv bench/mergekit
	bench/mergekit/bin/python -m pip install --quiet mergekit==0.1.5 "$$(grep '^torch==' constraints.txt)"

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q ckptdoctor
	@touch $@

clean:
	rm -rf $(VENV) demo bench
