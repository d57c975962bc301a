# `make` lists what there is. Everything runs in .venv, which is made on first use and reused after that.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL_LOG := $(VENV)/install.log
DOCS_STAMP := $(VENV)/.docs-installed
PAGES := build/pages
WORKERS ?= 2

.PHONY: help venv quickstart real demo test slow docs lint format clean benchmarks
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make .venv and install the package with all it needs

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ChatBridge needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) -V 2>&1`; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): minutes the first time, for PyTorch; what pip says is in $(INSTALL_LOG)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --editable '.[all,dev]' \
		--constraint constraints.txt > $(INSTALL_LOG) 2>&1 || \
		{ code=$$?; tail -n 40 $(INSTALL_LOG) >&2; \
		  echo "the installation failed: pip ended with $$code; all it said is in $(INSTALL_LOG)" >&2; exit $$code; }
	@touch $(STAMP)

quickstart: $(STAMP) ## tiny world, both training stages, evaluation and report, in minutes on a CPU
	$(BIN)/python -m dataset_prep.tiny_world.quickstart

real: $(STAMP) ## real weights without a model hub: both stages on pictures and sounds, evaluation and report, on a CPU
	$(BIN)/python -m dataset_prep.stamps.quickstart

demo: $(STAMP) ## a page to talk to the model of the quickstart, on http://127.0.0.1:7860
	@test -e runs/tiny/instruct/checkpoints || { echo "there is no model yet: runs/tiny/instruct is what make quickstart trains; try: make quickstart"; exit 2; }
	$(BIN)/python demo.py --cfg-path eval_configs/tiny_eval.yaml

test: lint ## set-up, lint and the tests
	$(BIN)/python -m pytest -n $(WORKERS)

slow: $(STAMP) ## the end-to-end tests, minutes
	$(BIN)/python -m pytest -m slow

benchmarks: $(STAMP) ## every CPU benchmark in one go, about 15 minutes; tables in benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.suite

docs: $(DOCS_STAMP) ## the site of README.md and docs/, in site/; a broken link or API name is an error
	@rm -rf $(PAGES) site && mkdir -p $(PAGES)
	@tar cf - --exclude='*.py' README.md CONTRIBUTING.md CHANGELOG.md LICENSE docs dataset_prep/cards benchmarks/RESULTS.md configs | tar xf - -C $(PAGES)
	$(BIN)/zensical build --strict --clean

# A copy in the layout of the repository, so that a relative link that works there works in the site as well.
$(DOCS_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	@touch $(DOCS_STAMP)

lint: $(STAMP) ## ruff and pyright
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright

format: $(STAMP) ## repair what ruff can repair
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

clean: ## remove .venv and caches; data/ and runs/ stay
	rm -rf $(VENV) build dist site .cache chatbridge.egg-info .pytest_cache .ruff_cache
	find chatbridge dataset_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +
