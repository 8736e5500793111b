# Needs Python 3.11, 3.12 or 3.13 and nothing else: `make run` and `make test` set up .venv on their first call.
# Another interpreter: make run PYTHON=/usr/bin/python3.12      another PyTorch: make run TORCH=torch==2.12.0

TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/ready
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet

# A python that is found may still not start (a pyenv shim) or make no environment (Debian packs venv apart).
USABLE = import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
OF_TORCH = from importlib import metadata; print(metadata.version("torch"))
HAS_TORCH = import sys, torch; sys.exit(torch.__version__ < "2.11")
# A PyTorch that is there is used where it is new enough, and never replaced: .venv sees what its interpreter sees.
ITS_TORCH = import torch; v = torch.__version__; print(f" and its PyTorch {v}" if v >= "2.11" else f", not its PyTorch {v}")
# To an environment made from another one, that one's packages have to be named.
FOLDERS = import sys; print(*(p for p in sys.path if p.endswith("-packages") and sys.prefix != sys.base_prefix), sep="\n")
OUTER = import site; print(site.getsitepackages()[0] + "/outer.pth")

.PHONY: help run test check format recipes peers bench bench-gpu
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

run: $(READY)  ## learn to adapt to sine waves in five steps (MAML)
	@$(BIN)/bilevel run maml_sine

# One thread for each of the two workers, or they slow each other down. `loadgroup` keeps tests that share a
# costly fixture on one worker.
test: $(READY)  ## the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# `python -m`, since a tool that the interpreter already has gets no script of its own in .venv.
check: $(READY)  ## layout, lint, types, tests
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(MAKE) --no-print-directory test

recipes: $(READY)  ## every quick recipe: what it gains, and a check of its hypergradients (long)
	@$(BIN)/python -m benchmarks.every_recipe

# Betty's metadata is refused by newer versions of pip.
peers: $(READY)  ## what the benchmarks compare with
	@$(PIP) 'pip<24.1'
	@$(PIP) --editable '.[peers]' "torch==$$($(BIN)/python -c '$(OF_TORCH)')"

# On a machine that does nothing else. One workload: .venv/bin/python -m benchmarks W0
bench: $(READY)  ## times and memory beside other libraries: BENCHMARKS.md (15 minutes; first `make peers`)
	@$(BIN)/python -m benchmarks

# A PyTorch with CUDA has to be there already, or is named: make bench-gpu TORCH='torch==2.11.0 --index-url ...'
bench-gpu: $(READY)  ## on a GPU: tests of what only it has, the speed of its operators, then W0, W1, W5 and W7 there
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("PyTorch %s sees no GPU here" % torch.__version__)'
	@$(BIN)/python -m pytest -q tests/kernels/test_cuda_graphs.py
	@$(BIN)/bilevel analyze maml_sine --device cuda
	@$(BIN)/python -m benchmarks --device cuda

format: $(READY)  ## one layout, and the lint that can repair itself
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .

# PyTorch goes first and by its exact version: as a mere dependency it may arrive with gigabytes of CUDA.
$(READY): pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null || { $(make_environment); }
	@$(BIN)/python -c '$(HAS_TORCH)' 2>/dev/null || { echo "Installing $(TORCH)"; $(PIP) $(TORCH); }
	@echo "Installing bilevel and its tools"
	@$(PIP) --editable '.[dev]'
	@touch $@

define make_environment
for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
    $$python -c '$(USABLE)' 2>/dev/null && break || python=; \
done; \
if [ -z "$$python" ]; then \
    echo "No usable Python$(PYTHON:%= at %): bilevel needs 3.11, 3.12 or 3.13, with the module venv" >&2; \
    echo "(on Debian and Ubuntu: apt install python3 python3-venv). One elsewhere: make PYTHON=/path/to/python ..." >&2; \
    exit 1; \
fi; \
its=$$($$python -W ignore -c '$(ITS_TORCH)' 2>/dev/null); \
case "$$its" in *and*) shared=--system-site-packages ;; *) shared= ;; esac; \
echo "Setting up .venv with $$($$python --version)$$its (once, a few minutes)"; \
$$python -m venv $$shared .venv && \
if [ -n "$$shared" ]; then $$python -c '$(FOLDERS)' > "$$($(BIN)/python -c '$(OUTER)')"; fi
endef
