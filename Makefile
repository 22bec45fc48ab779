.DEFAULT_GOAL := help
.PHONY: help run test test-matrix cov lint types bench soak docs build smoke clean fmt
PY ?= 3.11
ON := scripts/hatch run test.py$(PY)

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
run: ## Serve the example shop on 127.0.0.1:$PORT (8000)
	@scripts/run
test: ## Lint, types, docs, then tests on every Python found (ARGS="-k word" goes to pytest)
	@scripts/test $(ARGS)
test-matrix: build ## The tests of the adapter on the oldest and the newest FastAPI
	@scripts/test-matrix $(ARGS)
cov: ## Tests with branch coverage, on one Python (PY=3.13; default 3.11)
	@$(ON):cov $(ARGS)
lint: ## Ruff: rules and format
	@$(ON):lint
types: ## mypy and pyright, both strict
	@$(ON):types
bench: ## Measure against the bare idiom and the peers
	@$(ON):bench $(ARGS)
soak: ## The tests that run for minutes
	@$(ON):soak $(ARGS)
docs: ## Build the documentation into site/
	@scripts/hatch run docs:build
build: ## Build sdists and wheels of both packages into dist/
	@rm -rf dist && HATCH_NO_SOURCES=1 scripts/hatch build --all
smoke: build ## Build, then check the packages and run the README's examples from them
	@scripts/smoke
clean: ## Remove environments, caches and everything built
	@rm -rf .tools .hypothesis .coverage* dist site; find . \( -name __pycache__ -o -name '.*_cache' \) -prune -exec rm -rf {} +
fmt: ## Let Ruff fix and format
	@$(ON):fmt
