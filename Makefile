# One environment serves all targets; it is made on first use and brought up to date when what it is made of changes.
#
#   make demo       train spiking networks of sinabs, snnTorch and Norse, as they are and accelerated, and compare
#   make test       the whole test suite (PYTEST_ARGS adds options)
#   make lint       formatting, lints, types, import rules
#   make bench      the benchmarks; results go to benchmarks/results
#   make sanitize   the op tests on a library built with AddressSanitizer and UBSan (gcc)
#   make gpu-check  on a machine with a GPU: build, GPU tests, benchmarks, compute-sanitizer (GPU_ARGS adds options)
#   make gpu-wheels fetch what such a machine may lack into WHEELS, where there is a network (WHEELS_ARGS adds options)
#   make kernels    compile every CUDA kernel for every architecture, without a GPU: half an hour of one core; what they
#                   need goes to benchmarks/results/cuda_kernels.json and into docs/cuda.md (KERNELS_ARGS adds options)
#   make ptx        run what NVRTC makes of every CUDA kernel on the host, without a GPU: three quarters of an hour of one
#                   core (PTX_ARGS adds options)
#   make clean      removes what builds and runs leave behind, not the environment
#
# PYTHON is the interpreter to make the environment with, VENV where it is; an existing one can be named.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
WHEELS ?= ../wheels

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := $(VENV)/.plugin-accel-demo
READY := $(VENV)/.plugin-accel
KERNELS := setup.py $(shell find csrc -type f)
SANITIZED := build/sanitize

.PHONY: venv demo test lint bench sanitize gpu-check gpu-wheels kernels ptx clean

venv: $(READY)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The kernels need nothing of torch, so they are compiled while it is downloaded. torch comes alone: what is installed
# after it has to take the one that is there. The demo needs less than the rest, and is what a newcomer waits for.
define install
	@echo "Installing torch, the kernels and what is needed besides into $(VENV); this takes a minute or two"
	$(PIP) install -qq --no-deps --editable . & kernels=$$!; \
	$(PIP) install -qq --no-warn-conflicts --constraint constraints.txt torch || { kill $$kernels; exit 1; }; \
	wait $$kernels
	$(PIP) install -qq --constraint constraints.txt 'plugin-accel[$(1)]'
endef

$(DEMO): pyproject.toml constraints.txt $(KERNELS) $(wildcard namespaces/*.pth) | $(BIN)/python
	$(call install,demo)
	touch $@

comma := ,
$(READY): pyproject.toml constraints.txt $(KERNELS) $(wildcard namespaces/*.pth) | $(BIN)/python
	$(call install,test$(comma)dev$(comma)demo)
	touch $(DEMO) $@

demo: $(DEMO)
	$(BIN)/python examples/digits_sinabs.py --epochs 2 --out outputs
	$(BIN)/python examples/digits_others.py

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror

bench: $(READY)
	$(BIN)/plugin-accel bench --host sinabs --out benchmarks/results --markdown docs/benchmarks.md
	for suite in snntorch norse fusion egru sparse; do \
		$(BIN)/plugin-accel bench --host $$suite --out benchmarks/results --markdown docs/benchmarks-$$suite.md || exit 1; \
	done

$(SANITIZED)/.built: $(READY) $(KERNELS)
	rm -rf $(SANITIZED)
	PLUGIN_ACCEL_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext \
		--build-lib $(SANITIZED)/lib --build-temp $(SANITIZED)/tmp
	touch $@

# The library of this build is loaded before pytest starts, so that no test can pick up the usual one. torch does not
# free all it has when Python ends, hence no leak detection.
sanitize: $(SANITIZED)/.built
	$(BIN)/python setup.py --quiet build_py --build-lib $(SANITIZED)/lib
	runtime() { $(CXX) -print-file-name=$$1; }; \
	LD_PRELOAD="$$(runtime libasan.so) $$(runtime libubsan.so) $$(runtime libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(SANITIZED)/lib \
	$(BIN)/python -c 'import sys; del sys.path[0]; import torch, plugin_accel._C as library, pytest; \
	print("library under test:", library.__file__); sys.exit(pytest.main(sys.argv[1:]))' tests/ops tests/layers/test_egru_kernels.py $(PYTEST_ARGS)

# In the environment that is there, since that is the one with a CUDA build of torch.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py $(if $(wildcard $(WHEELS)),--wheels $(WHEELS)) $(GPU_ARGS)

gpu-wheels:
	$(PYTHON) benchmarks/gpu_wheels.py --out $(WHEELS) $(WHEELS_ARGS)

kernels: $(READY)
	$(BIN)/python -m tests.cuda_backend.all_kernels --out benchmarks/results/cuda_kernels.json --markdown docs/cuda.md $(KERNELS_ARGS)

ptx: $(READY)
	$(BIN)/python -m tests.cuda_backend.all_ptx $(PTX_ARGS)

clean:
	rm -rf build dist outputs *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	rm -f plugin_accel/_C.*.so $(READY)
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
