# Everything runs in .venv of the checkout, made on first use and reused.
PYTHON ?= python3
VENV := .venv
ENGINES := .venv-engines
TRL_TESTS ?= ../shared/peers/trl
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: install demo figures test test-all test-distributed test-torchvision test-trl test-vllm rehearse check format wheel clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed ## make .venv and install sayo in it

# Without a GPU, torch comes first and pinned: newer builds would bring gigabytes of CUDA along.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install ## the whole job on a laptop: prepare, cold start, GRPO, export, report
	bash scripts/demo.sh

figures: install ## the README's pictures, from the toy world (after make demo)
	bash scripts/figures.sh

test: install ## fast tests, under ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: install ## every test, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or not slow'

test-trl: install ## TRL's own tests of its trainers with sayo's classes; TRL_TESTS=a checkout of TRL
	$(BIN)/python -m scripts.trl_tests $(TRL_TESTS)

test-distributed: install ## two real ranks: DDP, ZeRO-1/2/3, FSDP2
	$(BIN)/python -m pytest -m 'slow or not slow' tests/distributed

rehearse: $(ENGINES)/.installed ## every published recipe and documented command, with stand-ins of the models
	$(ENGINES)/bin/python -m scripts.rehearse --check

test-torchvision: $(ENGINES)/.installed ## geometry and pixel limits with torchvision's image processors
	$(ENGINES)/bin/python -m pytest -n 2 --dist loadfile -m 'slow or not slow' tests/geometry \
		tests/attention/test_groups.py tests/toyworld/test_policy.py tests/viz/test_families.py \
		tests/training/test_pixel_limits.py

test-vllm: $(ENGINES)/.vllm ## GRPO, evaluation and exports with a real vLLM on a CPU (Linux)
	$(ENGINES)/bin/python -m pytest -n 2 --dist loadfile -m 'slow or not slow' --durations=15 tests/engines

$(ENGINES)/.installed: $(VENV)/.installed scripts/engines_env.sh
	bash scripts/engines_env.sh $(ENGINES)
	touch $@

$(ENGINES)/.vllm: $(ENGINES)/.installed
	bash scripts/engines_env.sh $(ENGINES) --vllm
	touch $@

check: install ## format, lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: install ## build dist/*.whl
	$(BIN)/python -m build --wheel

clean: ## remove the virtual environment and the demo's runs
	rm -rf $(VENV) $(ENGINES) runs/demo dist
