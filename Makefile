# make demo | test | science | check | bench.  Each makes .venv first, with nothing
# but a Python >= 3.12 on the machine (a pyenv, uv, conda or system one).
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.skymill-installed
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

# A file's tests stay together (they share what is slow to make), the longest files come first.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help install demo test science check bench constraints clean
help:
	@echo "make demo     simulate a lensed field and run it from raw frames to a mass map (./demo)"
	@echo "make test     the fast tests; make science: the long ones; make check: style and types"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/bootstrap.sh
	@bash tools/bootstrap.sh $(VENV)
	@touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/skymill demo demo --size full

test: $(STAMP) check
	$(PY) -m pytest tests/pipeline tests/cli tests/unit -m "not slow" $(PARALLEL) \
	  --ignore tests/pipeline/test_demo.py
	$(PY) -m pytest tests/pipeline/test_demo.py

science: $(STAMP)
	$(PY) -m pytest tests/science $(PARALLEL) -rA
	$(PY) -m pytest tests/unit tests/cli tests/pipeline -m slow -rA

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy
	$(PY) tools/check_docstrings.py

bench: $(STAMP)
	$(PY) -m benchmarks

constraints: $(STAMP)
	@{ echo "# Every version that skymill is tested with. Written by 'make constraints'."; \
	  $(PY) -m pip freeze --exclude-editable | grep -v '^skymill'; } > constraints.txt

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache demo
