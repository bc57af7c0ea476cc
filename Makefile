# Needs make and a python3 of 3.10 to 3.12, nothing else. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# What `make demo` runs; the bundle's own files decide what they do.
TRAIN_CONFIG ?= ['bundle/configs/train.json','bundle/configs/demo.json']
INFERENCE_CONFIG ?= ['bundle/configs/inference.json','bundle/configs/demo_inference.json']
DEMO_DIR := demo
UNSEEN := $(DEMO_DIR)/unseen

PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4

# Keyed on content, not on dates: a fresh checkout finds a cached environment (VENV=…) ready. The link to this
# checkout is a stamp of its own, as a cached environment may have served another one.
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
LINKED := $(VENV)/.linked-$(shell { pwd; cat setup.py; } | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install judges demo test lint clean check-python

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sort | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) in PATH; install Python 3.10, 3.11 or 3.12, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# torch first: sam2 is a source package that imports torch while it builds, and whose isolated build would fetch a
# second one. SAM2_BUILD_CUDA=0 leaves out an extension that is not used here.
$(INSTALLED): | check-python
	@echo "installing into $(VENV) (minutes: PyTorch is large)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-* $(VENV)/.linked-*
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt torch torchvision setuptools wheel
	SAM2_BUILD_CUDA=0 $(PIP) --constraint constraints.txt --no-build-isolation sam2
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(LINKED): $(INSTALLED)
	@rm -f $(VENV)/.linked-*
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

install: $(LINKED) ## Make the environment (.venv)

# Programs of others that tests ask about what is written; without them those tests are skipped, and say so.
JUDGES := dicom3tools orthanc orthanc-dicomweb plastimatch chromium curl

judges: ## Install what judges the DICOM that is written, and a browser (apt-get: Debian, Ubuntu; root)
	@command -v apt-get >/dev/null || { echo "error: no apt-get; install $(JUDGES) as your system does" >&2; exit 1; }
	@test "$$(id -u)" = 0 || { echo "error: apt-get needs root: sudo make judges" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(JUDGES)

demo: install ## Train the tiny preset on a CPU, then segment 64 unseen phantoms by sentence
	@echo "install finished, demo starts: $$(date '+%Y-%m-%d %H:%M:%S')"
	rm -rf $(DEMO_DIR)
	@mkdir -p $(DEMO_DIR) && date +%s > $(DEMO_DIR)/started
	$(PY) -m monai.bundle run training --config_file "$(TRAIN_CONFIG)"
	$(PY) -m monai_sa2va phantoms $(UNSEEN) --count 64 --seed 9000 --split 0/0/1
	$(PY) -m monai.bundle run inference --config_file "$(INFERENCE_CONFIG)"
	$(PY) benchmarks/demo_report.py
	@echo "demo took $$(( $$(date +%s) - $$(cat $(DEMO_DIR)/started) )) s from the end of the install"

test: install ## Run the whole suite, slow tests included
	$(PY) -m pytest -m "not e2e" $(PYTEST_ARGS)

lint: install ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# MONAI Label's dependencies stop at numpy 1.26, everything else is tested with numpy 2: an environment of its own over the
# first one, which holds the packages that differ alone (1 GB with 3D Slicer's core, beside 9).
.PHONY: install-label test-label e2e
LABEL_VENV := $(VENV)-label
LABEL_PY := $(LABEL_VENV)/bin/python
LABEL_PIP := $(LABEL_PY) -m pip install --quiet --disable-pip-version-check
LABEL_INSTALLED := $(LABEL_VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

$(LABEL_INSTALLED): $(INSTALLED)
	@echo "installing into $(LABEL_VENV)"
	@test -x $(LABEL_PY) || $(PYTHON) -m venv $(LABEL_VENV)
	@rm -f $(LABEL_VENV)/.installed-*
	@base="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
	  own="$$($(LABEL_PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
	  echo "import site; site.addsitedir('$$base')" > "$$own/zz_base.pth"
	$(LABEL_PIP) --upgrade pip "setuptools>=77.0.3"
	$(LABEL_PIP) --constraint constraints.txt --no-build-isolation --editable ".[e2e]"
	$(LABEL_PIP) --constraint constraints.txt --no-deps slicer-core vtk
	@touch $@

install-label: $(LABEL_INSTALLED) ## Make the environment of the MONAI Label server's tests (.venv-label)

# The path: a cached environment may have been linked to another checkout.
test-label: install install-label ## Run the tests of the MONAI Label server, 3D Slicer's extension included
	PYTHONPATH="$(CURDIR)" $(LABEL_PY) -m pytest -m "" tests/label tests/deploy $(PYTEST_ARGS)

# E2E_PY=… names another python that has MONAI Label and playwright; E2E_PICTURES=1 takes the docs' pictures anew.
E2E_PY ?= $(LABEL_PY)
e2e: $(if $(filter file,$(origin E2E_PY)),install install-label) ## OHIF in a browser: a sentence, a click, a SEG in Orthanc
	PYTHONPATH="$(CURDIR)" $(E2E_PY) -m pytest -m e2e -s tests/e2e

clean: ## Remove the environment, caches and what the demo wrote
	rm -rf .venv .venv-label build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage $(DEMO_DIR)
