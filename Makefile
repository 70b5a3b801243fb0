# `make repro` and `make test` set everything up on a fresh machine with Python >= 3.11.
PYTHON ?= python3
PROFILE ?= demo
SEEDS ?= 1 2
STAGES ?=
SITE = build/site
UV_PIN = 0.13.9

SHELL := /bin/bash
VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup gpu plan repro seeds ladder slim rivals controls latency test lint format lab site lock smoke soak memory clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## install the locked packages into .venv

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), but 3.11 or newer is needed;" \
	    "name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_PIN)
	@# compiled here: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start would compile torch
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python -r requirements.txt -e .
	touch $@

plan: setup  ## estimated hours, memory and disk of PROFILE's training, measured in a minute or two
	python -m lightdet_tools plan --profile $(PROFILE)

repro: setup  ## run the pipeline side by side, or STAGES of it; PROFILE=demo, bccd, minicoco, custom, coco
	@[ -e .git ] || dvc config --quiet --local core.no_scm true  # a zip download
	@case $(PROFILE) in coco) python -m lightdet_tools plan --profile coco;; esac
	python -m lightdet_tools repro --profile $(PROFILE) $(STAGES)
	@[ -n "$(STAGES)" ] || { echo; cat results/$(PROFILE)/tables/table2.md; echo; \
	  ! [ -e .git ] || python -m lightdet_tools compare --profile $(PROFILE); \
	  echo; echo "Tables, figures and executed notebooks: results/$(PROFILE)/; weights: runs/$(PROFILE)/"; }

seeds: repro  ## train SEEDS="1 2" of every run besides, then update tables and figures
	$(call train,all_runs(read_params()),$(SEEDS))

ladder: repro  ## train the ladder, one change at a time, seeds 0 and SEEDS, then the tables
	$(call train,read_params()['ladder'],0 $(SEEDS))

slim: repro  ## train what chapter 06 cuts narrower, seeds 0 and SEEDS, then the tables
	$(call train,read_params()['slim'],0 $(SEEDS))

rivals: repro  ## train YOLOv4-tiny and NanoDet-m on the same data, seeds 0 and SEEDS, then the tables
	$(call train,read_params()['rivals'],0 $(SEEDS))

controls: repro  ## train NanoDet's own recipes, meant for PROFILE=coco
	$(call train,read_params()['controls'],0)

latency: setup  ## time every system of Table 1 on this machine anew, then update its tables
	python -m lightdet_tools latency
	[ $(PROFILE) = coco ] || python -m lightdet_tools latency --profile $(PROFILE)
	dvc repro 06_sparsity 09_table1

# $(call train,LIST,SEEDS): side by side, seed by seed, so that a stop leaves whole rows; finished
# runs are kept
define train
@runs="$$(python -c "from lightdet_core.config import all_runs, read_params; \
  print(*(f'--experiment={run}' for run in $(1)))")" && \
  python -m lightdet_tools train --profile $(PROFILE) $(addprefix --seed=,$(2)) $$runs
python -m lightdet_tools repro --profile $(PROFILE) $(STAGES)
@echo; cat results/$(PROFILE)/tables/table2.md
endef

test: setup  ## the tests
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff, the core's types, and the rules for notebooks
	ruff check .
	ruff format --check .
	pyrefly check
	python -m lightdet_tools notebook check

format: setup  ## let ruff format everything, and set the notebooks' links to lines of code
	ruff format .
	python -m lightdet_tools notebook link

lab: setup  ## open the notebooks
	jupyter lab notebooks

site: setup  ## build/site: PROFILE's notebooks, tables and figures, and the API, as web pages
	python -m lightdet_tools site --profile $(PROFILE) --out $(SITE)

lock: setup  ## requirements.in -> requirements.txt
	uv pip compile --universal --python-version 3.11 --no-annotate --no-header \
	  --quiet requirements.in --output-file requirements.txt

smoke: setup  ## the whole pipeline in small, in a copy (build/smoke)
	./.ci/smoke

soak: setup  ## kill the pipeline twenty times and go on (build/soak, an hour or more)
	./.ci/soak

gpu: setup  ## build/gpu: what a GPU machine without a network needs, and the command for it
	python -m lightdet_tools gpu bundle

memory: setup  ## 2,000 training steps, 20,000 packed images (build/memory, 7 GB of disk)
	./.ci/memory

clean:  ## remove what the demo can make again; your data, other profiles and results/ stay
	rm -rf build/source build/site build/site.work build/smoke build/soak build/memory build/stale build/gpu build/gpu-ci build/gpu-rehearsal runs/demo runs/smoke* data/demo data/smoke*
