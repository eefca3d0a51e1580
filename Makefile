# The project's commands. `make` lists them.
#
# Everything runs in an environment of its own, .venv, made on first use and made anew when pyproject.toml changes.
# With ENV=none it runs in the interpreter that is active, as on machines without a network.

PYTHON ?= python3
ENV ?= .venv
BENCH ?= --quick
EXPERIMENT ?= throughput
ARGS ?=
JOBS ?= auto

# Modules are compiled when they are first imported: most of what is installed never is.
INSTALL = $(BIN)python -m pip install --quiet --no-compile

# What the commands below need, and this machine's hardware: the CUDA packages of the driver's own version where NVIDIA's
# driver answers, and elsewhere the vendors' compilers, for the tests that compile kernels without a GPU.
CUDA := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p')
ifeq ($(CUDA),)
EXTRAS ?= amd-compilers,bench,cpu,cuda-compilers,docs,keyless,lint,peers,spirv,test
else ifeq ($(shell test $(CUDA) -ge 13 && echo new),new)
EXTRAS ?= bench,cpu,cuda13,cuda-compilers,crosscheck,docs,keyless,lint,peers,spirv,test
else
EXTRAS ?= bench,cpu,cuda12,crosscheck,docs,keyless,lint,peers,spirv,test
endif

ifeq ($(ENV),none)
BIN :=
STAMP :=
else
BIN := $(ENV)/bin/
STAMP := $(ENV)/.installed-$(EXTRAS)
endif

.DEFAULT_GOAL := help
.PHONY: help env bench test test-thorough predict spirv figures report docs lint tree clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

env: $(STAMP) ## make the environment that this machine's hardware needs

bench: $(STAMP) ## measure every kernel here (EXPERIMENT=name, empty for all; ARGS="more options"; BENCH= for the long form)
	$(BIN)hashbench bench $(BENCH) $(EXPERIMENT) $(ARGS)

test: $(STAMP) ## run every test that this machine's hardware allows, a process a core (JOBS=1, ARGS="more options")
	$(BIN)python -m pytest --numprocesses $(JOBS) --dist loadgroup $(ARGS)

test-thorough: $(STAMP) ## run also the tests and examples that `make test` leaves out
	$(BIN)python -m pytest --thorough --numprocesses $(JOBS) --dist loadgroup $(ARGS)

predict: $(STAMP) ## compile for every GPU of the table and predict its throughput (ARGS='--gpu MI300X --variant plain')
	$(BIN)hashbench predict $(ARGS)

spirv: $(STAMP) ## compile what ships of the device code, after a change of it
	$(BIN)python -m hashbench.kernels.spirv_recipe

figures: $(STAMP) ## draw the figures from the measurements under results/
	$(BIN)hashbench figures $(ARGS)

report: $(STAMP) ## write the report, one page of HTML, from the measurements and figures under results/
	$(BIN)hashbench report $(ARGS)

docs: $(STAMP) tree ## build the documentation site in build/site and check all its links
	rm -rf build/docs && mkdir -p build/docs/kernels build/docs/hashbench/model build/docs/hashbench/trust
	ln -s $(addprefix $(CURDIR)/,$(wildcard *.md) LICENSE docs examples results) build/docs/
	ln -s $(CURDIR)/kernels/NOTES.md build/docs/kernels/
	ln -s $(wildcard $(CURDIR)/hashbench/model/*.schema.json) build/docs/hashbench/model/
	ln -s $(wildcard $(CURDIR)/hashbench/trust/*.schema.json) build/docs/hashbench/trust/
	NO_MKDOCS_2_WARNING=1 $(BIN)mkdocs build --strict

# The three folders as the one package that they install as, for mypy and mkdocstrings.
tree:
	rm -rf build/tree && mkdir -p build/tree
	cp -rs $(CURDIR)/hashbench build/tree/hashbench
	ln -s $(CURDIR)/kernels $(CURDIR)/experiments build/tree/hashbench/

lint: $(STAMP) tree ## check style and types
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy -p hashbench
	$(BIN)mypy --explicit-package-bases tests
	$(BIN)mypy examples

clean: ## remove the environment and everything built
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENV)/.installed-$(EXTRAS): pyproject.toml
	test -d $(ENV) || $(PYTHON) -m venv $(ENV)
	$(INSTALL) --upgrade pip  # that of Python 3.11 takes 30 s longer to choose the packages
	$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $@
