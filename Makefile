# `make` does what CI does. Every target installs what it needs by itself, into .venv and target/ and nowhere else.
.DEFAULT_GOAL := help
.PHONY: help setup build wheel demo test test-python test-rust bench bench-training soak soak-train fuzz lint dist clean

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := $(CURDIR)/.venv
# torch-sys takes libtorch from the venv's torch, and looks again when this value changes; one value for all builds also
# means that its C++ (two minutes) is compiled once for binary, wheel and tests.
export PATH := $(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(VENV)
export LIBTORCH_USE_PYTORCH := $(VENV)
export UV_PROJECT_ENVIRONMENT := $(VENV)
unexport PYTHONPATH
unexport PYTHONHOME

# $(call step,what) prints a line; the commands' own output follows.
step = @printf '\033[1m==> %s\033[0m\n' "$(1)"

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

$(VENV)/.installed: pyproject.toml uv.lock
	$(call step,installing the locked Python packages into .venv (once; torch is 4.7 GB with its CUDA libraries))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is older than 3.10; name another: make PYTHON=python3.12"; exit 2; }
	@command -v cargo >/dev/null || { echo "error: cargo is not on PATH; install Rust with rustup"; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@uv sync --frozen --inexact --extra authoring --compile-bytecode --quiet
	@touch $@

setup: $(VENV)/.installed ## Python packages in .venv

# What only tests need: tables (500 MB), ONNX (150 MB), Lightning, Optuna and the loggers (220 MB); a moment where it is there already.
$(VENV)/.tables: $(VENV)/.installed
	$(call step,installing the libraries of the tests: polars duckdb pyarrow pandas onnx onnxruntime lightning optuna tensorboard mlflow cryptography (once))
	@uv sync --frozen --inexact --extra authoring --extra onnx --extra lightning --extra sweep --extra tensorboard --extra mlflow --extra publish --group tables --compile-bytecode --quiet
	@touch $@

build: setup ## the native binary: target/release/rust-host
	$(call step,building the native binary (the first time 2 minutes; most of it is the C++ of torch-sys))
	@cargo build --release --locked --quiet

wheel: build ## the wheel, installed into .venv: `import rust_host`, py-authoring
	$(call step,building the wheel)
	@rm -rf target/wheels
	@maturin build --release --locked --out target/wheels > target/wheel.log 2>&1 || { cat target/wheel.log; exit 1; }
	@uv pip install --quiet --no-deps --reinstall-package rust-host target/wheels/*.whl

demo: wheel ## train on real digits, export, verify, run natively and from Python
	@python examples/demo.py

test: test-rust test-python ## every test: cargo and pytest

test-rust: build $(VENV)/.tables
	$(call step,cargo test)
	@cargo test --locked --quiet --features rust-host-cli/batch
	@cargo test --locked --quiet -p rust-host-python

test-python: wheel $(VENV)/.tables
	$(call step,pytest)
	@pytest

bench: wheel ## beside other engines: ONNX Runtime, OpenVINO, PyTorch, a C++ loop; start-up; programs (50 minutes)
	@python benches/peers.py
	@python benches/start.py
	@python benches/program.py
	@python benches/calls.py

bench-training: setup $(VENV)/.tables ## the training loop beside one written by hand and Lightning's Trainer (4 minutes)
	@python benches/training.py

soak: wheel ## resident memory over millions of calls and changing shapes, as a picture (15 minutes)
	@python benches/soak.py

KILLS ?= 50
soak-train: wheel $(VENV)/.tables ## a training killed KILLS times at random, alone and in two processes, and resumed (5 minutes)
	@KILLS=$(KILLS) pytest -s tests/authoring/test_soak.py

MINUTES ?= 1
fuzz: build ## every reader of foreign bytes, then mutants of whole archives, each for MINUTES (nightly, cargo-fuzz)
	$(call step,fuzzing)
	@for t in archive pickle tokens contract npy json onnx; do \
	  mkdir -p target/corpus/$$t && cp -n rust_host/fuzz/seeds/$$t/* target/corpus/$$t/; \
	  if [ $$t = archive ]; then cp -n rust_host/backends/torch/tests/data/*.torchscript target/corpus/archive/; fi; \
	  cargo +nightly fuzz run --fuzz-dir rust_host/fuzz --target-dir target/fuzz $$t target/corpus/$$t -- \
	    -max_total_time=$$(( $(MINUTES) * 60 )) -rss_limit_mb=2048 -timeout=10 || exit 1; \
	done
	@python tests/hostile/mutate.py --count 1000000 --seed $$(date +%s) --seconds $$(( $(MINUTES) * 60 ))

lint: wheel $(VENV)/.tables ## ruff, mypy, rustfmt, clippy; warnings are errors
	$(call step,ruff)
	@ruff check --quiet . && ruff format --check --quiet .
	$(call step,mypy)
	@mypy py_authoring && mypy --strict rust_host/python/rust_host
	$(call step,rustfmt and clippy)
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	@cargo clippy -p rust-host-tables -p rust-host-cli --features rust-host-cli/batch --all-targets --locked --quiet -- -D warnings
	@cargo clippy -p rust-host-tables --all-targets --locked --quiet -- -D warnings

dist: setup ## dist/rust-host-*.tar.xz: the binary with every library it needs
	$(call step,building the self-contained archive)
	@cargo build --release --locked --quiet --features rust-host-cli/batch
	@python rust_host/bundle.py target/release dist

clean: ## remove everything that was built, trained or installed here
	rm -rf target .venv dist models/*/runs models/*/[0-9]*
