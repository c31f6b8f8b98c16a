# `make demo` and `make test` are the only two set-up commands: each makes .venv if it is missing.
PYTHON ?= python3
PIP_ARGS ?=
OUT ?= demo

.PHONY: demo test bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	.venv/bin/deft demo --out $(OUT)

test: .venv/.installed-test
	.venv/bin/ruff check src tests benchmarks
	.venv/bin/mypy
	.venv/bin/python -m pytest

bench: .venv/.installed
	.venv/bin/python benchmarks/step_cost.py

# Everything made here and nothing else: results, caches, the environment.
clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache src/deft_diffusion.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "deft needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# Stamps: installed again when the dependencies change. The order-only prerequisite keeps a new mtime of the
# interpreter's link from counting as a change.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/.installed-test: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[test]"
	touch .venv/.installed $@
