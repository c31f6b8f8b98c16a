# `make demo` and `make test` are the only two set-up commands: each makes .venv if it is missing.
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"   the small CPU build of PyTorch
PYTHON ?= python3
PIP_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
# Tests run in one thread each, a file at a time in each of these processes.
TEST_ARGS ?= -n logical --maxprocesses 8 --dist loadfile

PIP = .venv/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.PHONY: demo test bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	.venv/bin/deft demo $(DEMO_ARGS)

test: .venv/.installed-test
	.venv/bin/ruff check src tests benchmarks
	.venv/bin/mypy
	.venv/bin/python -m pytest $(TEST_ARGS)

bench: .venv/.installed
	.venv/bin/python benchmarks/step_cost.py $(BENCH_ARGS)

# The environment and caches; what the demo and your own runs wrote stays.
clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment (Debian without python3-venv makes one) must not look like a whole one.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("deft needs Python 3.10 or later: make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Stamps: installed again only when the dependencies change, not when the environment's own files are touched.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) -e .
	touch $@

.venv/.installed-test: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) -e ".[test]"
	touch .venv/.installed $@
