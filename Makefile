# `make run` and `make test` set up what they need in .venv and are quick when it is there.
#
#   make run PROMPT="…"        another question
#   make run PYTHON=python3.13 the Python that .venv is made with (3.11 or later)
#   make dist LEVEL=19        packed as tightly as a release: minutes more, megabytes less
#   make run BACKEND=cuda      cpu | cuda | none; by itself: cuda where nvidia-smi works, none on macOS

PYTHON  ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BACKEND ?= $(shell [ "$$(uname -s)" = Linux ] || { echo none; exit; }; \
	nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
BACKEND := $(BACKEND)
PROMPT  ?= Name the capital of France.
override PROMPT := $(value PROMPT)
export PROMPT

ifeq ($(filter $(BACKEND),cpu cuda none),)
$(error BACKEND is '$(BACKEND)': it may be cpu, cuda or none)
endif

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
COMMA   := ,
EXTRA   := $(filter-out none,$(BACKEND))
# Stamps: what is installed, and for which backend.
# A venv holds absolute paths, so a clone that was moved needs a new one.
PLACE   := $(shell pwd | cksum | cut -d ' ' -f 1)
APP     := $(VENV)/.installed-$(BACKEND)-$(PLACE)
TESTS   := $(APP)-test
ORACLE  := $(APP)-oracle
NEEDS_PYTHON = $(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "mlxone needs Python 3.11 or later: install one, or name it with make PYTHON=…"; exit 1; }
PARTS   := $(wildcard mlxone tests tools bench packer build.py)

.DEFAULT_GOAL := help
.PHONY: help run test test-binary prove lint format parity oracle fuzz soak learn bench dist starter clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: starter ## Set up if needed and let the starter model answer PROMPT
	@$(BIN)/mlxone run --max-tokens 500 --prompt "$$PROMPT"

# Each of two processes has one thread for its matrices: four threads on two cores wait for each other.
test: export OPENBLAS_NUM_THREADS = 1
test: $(TESTS) lint starter ## Set up if needed; lint, types, tests (no network once set up)
	@$(BIN)/python -m pytest -n 2 --dist loadscope -q --ignore tests/parity --ignore tests/oracle --ignore tests/binary
	@MLXONE_CPU=native $(BIN)/python -m pytest -n 2 -q tests/parity

test-binary: build/.dist ## Build what is shipped if needed, and prove that it works
	@$(MAKE) --no-print-directory prove

prove: export OPENBLAS_NUM_THREADS = 1
prove: $(TESTS) starter ## The same proofs on what lies in dist/, whatever built it
	@$(BIN)/python -m pytest -n 2 --dist loadscope -q tests/binary
	@MLXONE_BINARY=$(CURDIR)/dist/mlxone $(BIN)/python -m pytest -n 2 --dist loadscope -q tests/e2e -k "serve or test_train"

lint: $(TESTS) ## Style, format and types
	@$(BIN)/ruff check $(PARTS)
	@$(BIN)/ruff format --check --quiet $(PARTS) || { echo "make format puts this right"; exit 1; }
	@$(BIN)/mypy

format: $(TESTS) ## Put style and format right where that can be done by itself
	@$(BIN)/ruff check --fix --quiet $(PARTS)
	@$(BIN)/ruff format --quiet $(PARTS)

parity: $(TESTS) starter ## The long proof that logits equal mlx-lm's
	@MLXONE_CPU=native $(BIN)/python -m pytest tests/parity -q -m "long or not long"

oracle: $(ORACLE) ## Logits of every family against transformers' (the first time it installs torch)
	@$(BIN)/python -m pytest tests/oracle -q

fuzz: $(TESTS) starter ## Damaged files and random requests, at length
	@$(BIN)/python -m pytest tests -n 2 -q -m "long or hypothesis" --ignore tests/parity \
		--ignore tests/oracle --ignore tests/binary --hypothesis-profile=fuzz

soak: $(TESTS) starter ## Thousands of requests at one server: nothing may grow and nothing may stay
	@$(BIN)/python -m pytest tests/e2e -q -m long -k serve

learn: $(TESTS) starter ## The starter learns a task in 150 steps, by the sources and by the packed file in dist/
	@LEARN_STEPS=150 $(BIN)/python -m pytest tests/e2e/test_train.py -q
	@LEARN_STEPS=150 MLXONE_BINARY=$(CURDIR)/dist/mlxone $(BIN)/python -m pytest tests/e2e/test_train.py -q

bench: $(TESTS) starter ## Side by side with mlx-lm, as in docs/benchmarks.md
	@$(BIN)/python -m bench

dist: ## Pack the one file, the slim one and the zipapp into dist/ (python build.py --help)
	@$(NEEDS_PYTHON)
	@$(PYTHON) build.py $(if $(LEVEL),--level $(LEVEL))

# build.py writes it after a whole build, and removes it before any. Folders are as new as what was last put into
# them or taken away. The commit is inside, so that another commit is another build.
build/.dist: $(shell find mlxone packer tools -name __pycache__ -prune -o \( -type f -o -type d \) -print) \
		build.py pyproject.toml constraints.txt LICENSE README.md \
		$(wildcard $(shell git rev-parse --git-path logs/HEAD 2>/dev/null)) \
		$(if $(and $(wildcard dist/mlxone),$(wildcard dist/mlxone-slim),$(wildcard dist/*.pyz)),,.again)
	@$(MAKE) --no-print-directory dist

.again: # no such file is ever made, so what asks for it is made anew

starter: $(APP)
	@$(BIN)/python tools/make_starter.py >/dev/null

clean: ## Remove .venv, dist and caches; models stay
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv belongs to one backend: MLX's CPU and CUDA packages overwrite each other's files.
# The second road is for systems that ship Python's venv module without the pip inside it.
$(APP): pyproject.toml constraints.txt
	@$(NEEDS_PYTHON)
	@$(PIP) --version >/dev/null 2>&1 && [ -z "$$(ls $(VENV)/.installed-* 2>/dev/null | grep -v -- '-$(BACKEND)-$(PLACE)')" ] || { \
		echo "making $(VENV) with $$($(PYTHON) --version)"; rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
			$(PYTHON) -m venv --clear --without-pip $(VENV) && \
			$(PYTHON) -m pip -qq --python $(BIN)/python install pip; }; }
	@touch $(VENV)/.installed-begun-$(BACKEND)-$(PLACE)
	@echo "installing mlxone$(if $(EXTRA), for $(EXTRA)) into $(VENV)"
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.$(if $(EXTRA),[$(EXTRA)])'
	@touch $@

$(TESTS): $(APP)
	@echo "installing what the tests need"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test$(if $(EXTRA),$(COMMA)$(EXTRA))]'
	@touch $@

$(ORACLE): $(TESTS)
	@echo "installing torch, a large download"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[oracle$(if $(EXTRA),$(COMMA)$(EXTRA))]'
	@touch $@
