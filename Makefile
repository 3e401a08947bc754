# go-mlx. `make demo` sets everything up and shows the main job; `make test` runs the tests.
# Everything lands in .venv/, build/ and bin/; nothing is installed into the system.

PYTHON ?= python3
GO     ?= go
CARGO  ?= cargo
CMAKE  ?= cmake

VENV    := .venv
VPYTHON := $(VENV)/bin/python
LIB     := build/lib
MODEL   := tests/models/domains
CLI     := bin/go-mlx

SHLIB := $(if $(filter Darwin,$(shell uname -s)),dylib,so)

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: build demo test test-race test-long test-python test-rust fuzz bench models lint clean distclean tools

# --- tools -----------------------------------------------------------------------------------------
# need TOOL, Debian package or command, macOS command: one line that says what to run.
need = command -v $(1) >/dev/null 2>&1 || { echo "missing tool: $(1). Debian: $(2). macOS: $(3)." >&2; exit 1; }

tools:
	@$(call need,$(PYTHON),apt-get install python3 python3-venv,brew install python)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "missing tool: Python 3.10 or newer. Debian: apt-get install python3 python3-venv. macOS: brew install python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "missing tool: python3-venv. Debian: apt-get install python3-venv. macOS: brew install python." >&2; exit 1; }
	@$(call need,$(GO),download Go 1.26 from go.dev/dl,brew install go)
	@$(call need,$(CMAKE),apt-get install cmake,brew install cmake)
	@$(call need,c++,apt-get install g++,xcode-select --install)
	@$(call need,$(CARGO),curl https://sh.rustup.rs -sSf | sh,brew install rust)

# --- set-up ----------------------------------------------------------------------------------------
$(VENV)/.ready: requirements.txt | tools
	@echo "==> Python environment in $(VENV)"
	@test -x $(VPYTHON) || $(PYTHON) -m venv $(VENV)
	@$(VPYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@mkdir -p build && ln -sfn "$$($(VPYTHON) -c 'import mlx, os; print(os.path.abspath(list(mlx.__path__)[0]))')" build/mlx
	@touch $@

$(LIB)/libmlxc.$(SHLIB): $(VENV)/.ready cpp/CMakeLists.txt cpp/format_shim.h cpp/mlx-c-source/Cargo.lock
	@echo "==> mlx-c against the environment's libmlx"
	@$(CARGO) fetch --quiet --locked --manifest-path cpp/mlx-c-source/Cargo.toml
	@src=$$($(CARGO) metadata --locked --format-version 1 --manifest-path cpp/mlx-c-source/Cargo.toml | \
	    $(PYTHON) -c 'import json, os, sys; print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "mlx-sys"))')/src/mlx-c && \
	  $(CMAKE) -S cpp -B build/mlx-c -DCMAKE_BUILD_TYPE=Release -DMLX_C_SOURCE_DIR="$$src" \
	    -DCMAKE_PREFIX_PATH="$(abspath build/mlx)" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$(abspath $(LIB))" >build/mlx-c.log && \
	  $(CMAKE) --build build/mlx-c --parallel >>build/mlx-c.log || { tail -n 30 build/mlx-c.log >&2; exit 1; }; \
	  rm -rf build/include && mkdir -p build/include/mlx && cp -R "$$src/mlx/c" build/include/mlx/c
	@touch $@

RUST_SRC := $(wildcard internal/tokenizer/rust/src/*.rs) internal/tokenizer/rust/Cargo.toml internal/tokenizer/rust/Cargo.lock
$(LIB)/libgomlx_tokenizer.a: $(RUST_SRC) | tools
	@echo "==> tokenizer and chat template library"
	@$(CARGO) build --quiet --release --locked --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust
	@mkdir -p $(LIB) && cp build/rust/release/libgomlx_tokenizer.a $@

LIBS := $(LIB)/libmlxc.$(SHLIB) $(LIB)/libgomlx_tokenizer.a
GO_SRC := $(shell find . -name '*.go' -not -path './.venv/*' -not -path './build/*') go.mod go.sum $(wildcard python/go_mlx_worker/*.py) internal/tokenizer/gomlx_tokenizer.h

$(CLI): $(LIBS) $(GO_SRC)
	@echo "==> $(CLI)"
	@$(GO) build -o $@ ./cmd/go-mlx

build: $(CLI)
