# make setup | check | test | test-slow | mini
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: setup check lint types shell test test-slow mini

PYTHON := . ./path.sh && "$$TSE_PYTHON" -m

test: setup
	$(PYTHON) pytest -n auto --dist loadfile -m "not slow and not gpu"

test-slow: setup
	$(PYTHON) pytest -m "slow and not gpu"

check: lint types shell

lint: setup
	$(PYTHON) ruff check .
	$(PYTHON) ruff format --check .

types: setup
	$(PYTHON) mypy

shell:
	if command -v shellcheck >/dev/null; then \
	  find . .ci/run -path ./tools/venv -prune -o -path ./tools/oracles -prune -o '(' -name '*.sh' -o -path .ci/run ')' -print0 | xargs -0 shellcheck; \
	elif [ -n "$${CI:-}" ]; then echo "shellcheck is missing" >&2; exit 1; \
	else echo "shellcheck is not installed: shell scripts are not checked"; fi

mini:
	./run.sh egs/mini/tse1

setup:
	tools/install.sh dev
