# The commands of this project; `make` alone lists them.
# Everything runs in .venv, which is made on first use and renewed when setup.cfg changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench campaign clean

BIN := .venv/bin

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run a small sweep of a real simulation on this machine (needs Python and its venv only)
	@scripts/venv demo
	@$(BIN)/wlm demo

test: ## install what tests need (asks for root once, where packages are missing), run them all
	@scripts/setup
	@scripts/test

check: ## format, lint, types, import directions, documentation
	@scripts/venv dev
	@scripts/check

docs: ## build the documentation into site/
	@scripts/venv dev
	@$(BIN)/mkdocs build --strict --quiet --site-dir site
	@echo "open site/index.html"

bench: ## run all benchmarks on private services, some beside bare Celery (some twelve minutes)
	@scripts/setup
	@$(BIN)/python -m benchmarks

campaign: ## faults at random times, at full length (can take an hour)
	@scripts/setup
	@scripts/test --no-cov -m campaign --long --timeout=0

clean: ## remove everything that was built here, the environment too
	@rm -rf .venv build dist site *.egg-info .coverage .coverage.* .hypothesis \
	  .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
