# make train   environment, installation, demo corpus, a training run with two processes
# make test    environment, installation, all tests
# make lint    format, lint and types

PYTHON ?= python3
VENV ?= .venv
NUM_PROCESSES ?= 2
BIN := $(VENV)/bin
# pip of the system installs into the environment, which then needs no pip of its own.
# DeepSpeed's own kernels, which need a CUDA toolkit, are not used.
PIP_INSTALL := DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt

.PHONY: train test lint clean

train: $(VENV)/installed corpora/demo/manifest.json
	$(BIN)/lightrnn train --nproc-per-node $(NUM_PROCESSES) --config configs/demo.toml \
	    --data.corpus corpora/demo --run-dir runs/demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) corpora/demo runs/demo

corpora/demo/manifest.json: $(VENV)/installed
	mkdir -p corpora
	$(BIN)/lightrnn demo-corpus --output corpora/demo

$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes the first time"
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes the first time"
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/installed
