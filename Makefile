# make demo    the whole loop on the tiny recipe, ends in runs/demo/report.html (SEED=1: runs/demo-seed1)
# make test    the test suite                  make lint    ruff and mypy
# make setup-vllm  adds vLLM for CPUs to .venv (docs/guide/vllm.md); its tests skip without it
# make docs    writes the generated pages       make site    builds the documentation into site/
# make wheel   a wheel with kernels for this platform, in dist/
# make shipped the model of the package again, from nothing (some 35 minutes on two cores)
# make bench   side-by-side measurements       make smoke   the demo's road at the smallest sizes, checked
#
# Every target sets up .venv once and reuses it. Nothing outside the checkout is written but pip's cache.

PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
LOCK ?= requirements.lock

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CACHE := $(CURDIR)/$(VENV)/cache
RUN := HF_HOME=$(CACHE)/huggingface MPLCONFIGDIR=$(CACHE)/matplotlib XDG_CACHE_HOME=$(CACHE) $(BIN)
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Where it is set, each of the many processes that commands and tests start compiles what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test collect lint bench smoke shipped setup setup-vllm docs site wheel clean help

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(READY)
	$(RUN)/h1r demo $(if $(SEED),--seed $(SEED) --out runs/demo-seed$(SEED))

# One process more than there are cores, each with one thread; a file's tests stay together, since engines are
# built once per file, and long files come first (tests/conftest.py).
test: $(READY)
	OMP_NUM_THREADS=1 $(RUN)/pytest -n auto --dist loadfile --no-loadscope-reorder --durations 40

# Compiles the tests and what they import.
collect: $(READY)
	OMP_NUM_THREADS=1 $(RUN)/pytest --collect-only -q >/dev/null 2>&1

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(READY)
	@for script in benchmarks/train_step.py benchmarks/decode.py; do echo "$$script"; $(RUN)/python "$$script" || exit 1; done

smoke: $(READY)
	rm -rf runs/smoke
	$(RUN)/h1r demo recipes/smoke.toml
	$(RUN)/python .ci/check_report.py runs/smoke/report.json

shipped: $(READY)
	$(RUN)/python tools/make_shipped.py

docs: $(READY)
	$(RUN)/python docs/reference/recipes.py

site: $(READY)
	$(RUN)/mkdocs build --strict --quiet

# CC names the compiler. Without H1R_LEVELS a wheel is pure Python, and its kernels compile on first use.
wheel: $(READY)
	H1R_LEVELS=all $(PIP) wheel --no-deps --no-build-isolation -w dist .

setup: $(READY)

setup-vllm: $(READY)
	tools/setup_vllm_cpu.sh $(VENV)

# On Linux the default torch wheel carries gigabytes of CUDA. Without an NVIDIA driver the CPU build is enough; it is
# taken from TORCH_INDEX when that host answers, and else from the index pip is configured with.
# All else comes first, from files whose hashes requirements.lock holds; `make LOCK=` does without, for an index of
# files that were built anew. Neither torch, pycosat nor a folder can have a hash there (tools/lock.py says why).
$(READY): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is missing or older than Python 3.11; install a newer one, or name it: make PYTHON=python3.12"; \
	  exit 1; }
	@echo "Setting up $(VENV) (once; again when what it installs changes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@test -z "$(LOCK)" || { echo "Installing what $(LOCK) holds, each file checked against its hash"; \
	  $(PIP) install --no-deps --require-hashes -r $(LOCK); }
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! $(BIN)/python -c 'import torch' 2>/dev/null \
	  && $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=5)' 2>/dev/null; then \
	  echo "Installing the CPU build of torch from $(TORCH_INDEX)"; \
	  $(PIP) install torch -c constraints.txt --extra-index-url $(TORCH_INDEX); fi
	@$(PIP) install pycosat -c constraints.txt >/dev/null 2>&1 || { \
	  echo "pycosat, which reasoning-gym imports, could not be compiled here; installing tools/pycosat in its place"; \
	  $(PIP) install ./tools/pycosat; }
	$(PIP) install $(if $(LOCK),--no-build-isolation) -e '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "runs/ is kept; delete it yourself"
