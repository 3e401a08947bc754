# go-mlx. `make demo` sets everything up and shows the main job; `make test` runs the tests; `make help` lists the rest.
# Everything lands in .venv/, build/ and bin/; nothing is installed into the system.

# The names of the targets cannot hold a blank.
$(if $(word 2,$(CURDIR)),$(error make cannot work in a folder whose path has a blank: "$(CURDIR)"; move it))

PYTHON ?= python3
GO     ?= go
CARGO  ?= cargo

VENV    := .venv
VPYTHON := $(VENV)/bin/python
LIB     := build/lib
MODEL   := tests/models/domains
comma := ,
# Before what downloads: it is tried again where it fails.
RETRY   := sh $(CURDIR)/tools/retry.sh
CLI     := bin/go-mlx

# Packages go into virtual environments alone: pip refuses where it would put one into the system's Python, as by a half-made .venv.
export PIP_REQUIRE_VIRTUALENV := 1
export PIP_USER := 0
# Python of another place is not for the one in .venv; with CDPATH, cd leads to other folders and prints them.
unexport PYTHONHOME CDPATH

# Clients ask servers of tests on this machine, without a proxy. Python and curl look at the small letters first.
export no_proxy := $(if $(filter *,$(or $(no_proxy),$(NO_PROXY))),*,$(if $(no_proxy)$(NO_PROXY),$(or $(no_proxy),$(NO_PROXY))$(comma))127.0.0.1,localhost,::1)
export NO_PROXY := $(no_proxy)

# This module is built alone, whatever workspace the folder is in. With -trimpath, Go would link what another folder of the same source has built.
# Where git refuses to say what is committed, as in a folder of another user, nothing is noted of it.
export GOWORK := off
export GOFLAGS := $(strip $(filter-out -trimpath -trimpath=true,$(shell $(GO) env GOFLAGS 2>/dev/null)) $(if $(shell git rev-parse HEAD 2>/dev/null),,-buildvcs=false))

# Programs that are run from here find the workers' interpreter by this; it is not looked for in working directories.
export GO_MLX_PYTHON ?= $(abspath $(VPYTHON))

# Before anything looks at what an earlier make has left; `make -n` changes nothing.
KEPT := $(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(shell sh $(CURDIR)/tools/kept.sh))

# Where the system has no CMake of that version, or no pkg-config, the virtual environment gets one (requirements-tools.txt).
CMAKE      ?= $(shell cmake --version 2>/dev/null | awk 'NR == 1 { split($$3, v, "."); ok = v[1] > 3 || v[1] == 3 && v[2] >= 20 } END { print ok ? "cmake" : "$(abspath $(VENV))/bin/cmake" }')
PKG_CONFIG ?= $(shell command -v pkg-config || echo $(abspath $(VENV))/bin/pkgconf)
export CMAKE PKG_CONFIG
# How many files are compiled at once: with no number CMake starts as many compilers of make's as there are files.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# CMake's make counts its jobs by itself, and would warn of those of the make that called it.
CMAKE_BUILD = MAKEFLAGS= $(CMAKE) --build

# DEVICE=cuda takes MLX's library for NVIDIA GPUs. What .venv was made for, if not for the CPU, is in build/mlx-device; another DEVICE installs and
# links anew.
DEVICE ?= $(or $(file <build/mlx-device),cpu)
$(if $(filter-out cpu cuda,$(DEVICE)),$(error DEVICE is cpu or cuda, and not "$(DEVICE)"))
REQUIREMENTS := requirements$(if $(filter cuda,$(DEVICE)),-cuda).txt
$(if $(filter-out $(DEVICE),$(or $(file <build/mlx-device),cpu)),$(shell mkdir -p build && echo $(DEVICE) >build/mlx-device))

SHLIB := $(if $(filter Darwin,$(shell uname -s)),dylib,so)

# So many targets are made side by side: while one waits for a network, for a clock or for the last file of a crate, another computes. Not where
# several are named, which may be meant in that order (make clean build). The make commands below belong to the one that was called. GNU make 3.81
# takes this number even where -j gives another.
LANES ?= 2
ifeq ($(MAKELEVEL)$(word 2,$(MAKECMDGOALS)),0)
MAKEFLAGS += -j$(LANES)
endif

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: help build demo test tools browser stage install release lint check-darwin clean distclean

help:
	@awk 'BEGIN { FS = ":.*## " } FNR == 1 && NR > 1 { print "\nLaboratory (tests/laboratory.mk):" } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile tests/laboratory.mk

# --- tools -----------------------------------------------------------------------------------------
# need TOOL, Debian package or command, macOS command: for what only one target needs.
need = command -v $(1) >/dev/null 2>&1 || { echo "missing tool: $(1). Debian: $(2). macOS: $(3)." >&2; exit 1; }

tools:
	@PYTHON=$(PYTHON) GO=$(GO) CARGO=$(CARGO) sh tools/check.sh

# The same and what only tests need, before anything is built.
test-tools:
	@PYTHON=$(PYTHON) GO=$(GO) CARGO=$(CARGO) sh tools/check.sh browser

# --- set-up ----------------------------------------------------------------------------------------
LINK_MLX = mkdir -p build && ln -sfn "$$($(VPYTHON) -c 'import mlx, os; print(os.path.abspath(list(mlx.__path__)[0]))')" build/mlx
$(VENV)/.ready: $(REQUIREMENTS) requirements-tools.txt $(wildcard build/mlx-device) | tools
	@echo "==> Python environment in $(VENV)"
	@sh tools/venv.sh $(VENV) $(PYTHON)
	@! $(VPYTHON) -m pip show --quiet $(if $(filter cuda,$(DEVICE)),mlx-cpu,mlx-cuda-13) 2>/dev/null || $(VPYTHON) -m pip uninstall --quiet --yes mlx mlx-cpu mlx-cuda-13
	@$(RETRY) $(VPYTHON) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	@test -z '$(filter $(abspath $(VENV))/%,$(CMAKE) $(PKG_CONFIG))' || $(RETRY) $(VPYTHON) -m pip install --quiet --disable-pip-version-check --force-reinstall -r requirements-tools.txt
	@$(LINK_MLX)
	@touch $@

# For a build folder that was removed while the environment stayed.
build/mlx: | $(VENV)/.ready
	@$(LINK_MLX)

KERNEL_SRC := $(wildcard cpp/kernels/*.h cpp/kernels/*.cpp cpp/primitives/*.h cpp/primitives/*.cpp)
FETCH_MLX_C = $(RETRY) $(CARGO) fetch --quiet --locked --manifest-path cpp/mlx-c-source/Cargo.toml
# Leaves the folder of mlx-c's source in the shell's variable src.
CONFIGURE_MLX_C = src=$$($(CARGO) metadata --locked --format-version 1 --manifest-path cpp/mlx-c-source/Cargo.toml | \
	    $(PYTHON) -c 'import json, os, sys; print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "mlx-sys"))')/src/mlx-c && \
	  $(CMAKE) -S cpp -B build/mlx-c -DCMAKE_BUILD_TYPE=Release -DMLX_C_SOURCE_DIR="$$src" \
	    -DCMAKE_PREFIX_PATH="$(abspath build/mlx)" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$(abspath $(LIB))" >build/mlx-c.log
# The headers are copied before the library is there, which stands for both.
$(LIB)/libgomlx_kernels.$(SHLIB): $(VENV)/.ready cpp/CMakeLists.txt cpp/format_shim.h cpp/mlx-c-source/Cargo.lock $(KERNEL_SRC) | build/mlx build/mlx-c/CMakeCache.txt
	@echo "==> mlx-c against the environment's libmlx, and the CPU kernels"
	@$(FETCH_MLX_C)
	@$(CONFIGURE_MLX_C) && \
	  rm -rf build/include && mkdir -p build/include/mlx && cp -R "$$src/mlx/c" build/include/mlx/c && cp cpp/primitives/gomlx_kernels.h cpp/primitives/gomlx_cuda.h build/include/ && \
	  $(CMAKE_BUILD) build/mlx-c --parallel $(JOBS) >>build/mlx-c.log || { tail -n 30 build/mlx-c.log >&2; exit 1; }
	@touch $@

# For a folder that was moved while the libraries stayed.
build/mlx-c/CMakeCache.txt: | $(VENV)/.ready build/mlx
	@$(FETCH_MLX_C)
	@mkdir -p build
	@$(CONFIGURE_MLX_C) || { tail -n 30 build/mlx-c.log >&2; exit 1; }

RUST_SRC := $(wildcard internal/tokenizer/rust/src/*.rs) internal/tokenizer/rust/Cargo.toml internal/tokenizer/rust/Cargo.lock
$(LIB)/libgomlx_tokenizer.a: $(RUST_SRC) | tools
	@echo "==> tokenizer and chat template library"
	@$(CARGO) build --quiet --release --locked --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust
	@mkdir -p $(LIB) && cp build/rust/release/libgomlx_tokenizer.a $@.part && mv $@.part $@

LIBS := $(LIB)/libgomlx_kernels.$(SHLIB) $(LIB)/libgomlx_tokenizer.a
GO_SRC := $(shell find . -name '*.go' -not -path './.venv/*' -not -path './build/*') go.mod go.sum $(wildcard python/go_mlx_worker/*.py) internal/tokenizer/gomlx_tokenizer.h

# Go does not see that a static library has changed; the flag, which names no variable, makes it link again.
$(CLI): $(LIBS) $(GO_SRC)
	@echo "==> $(CLI)"
	@$(GO) build -ldflags "-X main.tokenizerLibrary=$$(cksum <$(LIB)/libgomlx_tokenizer.a | tr ' ' -)" -o $@ ./cmd/go-mlx

build: $(CLI) ## the program, bin/go-mlx, and what it needs

# A browser for the tests of the page, where none is installed.
browser: $(VENV)/.ready
	@sh tools/browser.sh >/dev/null || { echo "==> a browser into build/browser"; PYTHON=$(VPYTHON) sh tests/page/browser/fetch.sh; }

# --- demo ------------------------------------------------------------------------------------------
LABELS  := tests/corpus/labels.txt
HELDOUT := tests/corpus/heldout.tsv

demo: build ## classifies held-out sentences with both engines, measures accuracy
	@echo
	@echo "==> Held-out sentences, classified by the native engine"
	@awk 'NR % 13 == 1' $(HELDOUT) | cut -f3 > build/demo.txt
	@$(CLI) classify --model $(MODEL) --labels $(LABELS) < build/demo.txt | tee build/demo.native
	@echo
	@echo "==> The same by mlx-lm in a Python worker"
	@$(CLI) classify --model $(MODEL) --labels $(LABELS) --engine python < build/demo.txt > build/demo.python
	@$(CLI) classify --model $(MODEL) --labels $(LABELS) --exact --quiet < build/demo.txt > build/demo.exact
	@cmp -s build/demo.exact build/demo.python && echo "every label, probability and margin is the same as by the native engine with --exact" || { echo "the engines disagree:"; diff build/demo.exact build/demo.python; exit 1; }
	@echo
	@echo "==> Accuracy on all $$(wc -l < $(HELDOUT)) held-out sentences (English, German, French, Spanish)"
	@cut -f2,3 $(HELDOUT) | $(CLI) classify --model $(MODEL) --labels $(LABELS) --labelled > /dev/null
	@echo "baselines, trained on the same corpus:"
	@$(VPYTHON) tests/models/baseline.py
	@echo
	@echo "==> Streaming text, native and python"
	@for engine in native python; do $(CLI) generate --quiet --engine $$engine --model $(MODEL) --max-tokens 24 "Where can I find"; done

# --- tests -----------------------------------------------------------------------------------------
# The time is for what hangs: a slow machine takes some minutes for the largest package.
GOTEST := $(GO) test -count=1 -timeout 45m

# What is missing is said before anything is built. Packages are put into .venv before tests run from there; what takes longest begins first.
test: test-tools ## all tests of every save but the slow ones
	@$(MAKE) --no-print-directory build browser
	@$(MAKE) --no-print-directory $(VENV)/.clients
	@$(MAKE) --no-print-directory lint test-packages race-bridge-2 test-native race-bridge-1 race-rest test-outside test-clients test-python test-kernels test-rust
	@echo "all tests passed"

# What proves the same with more tokens, more texts and more tries, and so is not in `make test`; CI runs it as a step of its own.
test-slow: build test-more fuzz lint-platforms ## more of the same: whole sets of prompts, fuzzing; other systems
	@echo "all slow tests passed"

test-more: build
	@echo "==> Whole sets of prompts through both engines"
	@GO_MLX_SLOW=1 $(GOTEST) -run GreedyTokens ./tests/parity
	@GO_MLX_SLOW=1 $(GOTEST) -run ABatchOfRequests ./native
	@GO_MLX_SLOW=1 $(GOTEST) -run TheKernel ./internal/fused
	@GO_MLX_SLOW=1 $(GOTEST) -run TemplatesThatLoop ./internal/tokenizer
	@echo "==> More requests, kills and cancels"
	@GO_MLX_SLOW=1 SOAK_REQUESTS=300 $(GOTEST) -run 'RealSoak|RealOneWorker' ./bridge
	@echo "==> The tokenizer library against the tokenizers crate"
	@$(CARGO) test --quiet --release --locked --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust

# For every save: one worker of Python, no browser, no race detector.
test-short: build ## for every save, under two minutes: one Python worker, no browser, no race detector
	@$(GOTEST) -short ./...
	@$(GOTEST) -run '^TestRealOneWorker$$' ./bridge

# docs/api.txt lists what the public packages export. A change of the API shows there, line by line, and lint refuses one that does not.
api: ## writes docs/api.txt after a change of the public API
	@GO_MLX_WRITE=1 $(GOTEST) ./tests/api
	@git --no-pager diff --stat docs/api.txt

# Lines with - are what programs may miss.
SINCE ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo HEAD)
apidiff: ## what has changed in the public API since the last tag, or SINCE=COMMIT
	@$(GOTEST) ./tests/api
	@git --no-pager diff --no-color --unified=0 $(SINCE) -- docs/api.txt | grep '^[-+][^-+]' || echo "the public API is that of $(SINCE)"

.PHONY: api apidiff lint-platforms test-tools test-short test-slow test-more test-kernels test-go test-packages test-native test-race compiled compiled-race test-python test-rust test-clients test-outside fuzz
# Where goroutines meet (the worker pool, the owner threads, the public API over both) tests run with the race detector, and
# once is enough; the other packages run without it.
RACED := . ./bridge ./internal/mlxc ./engine ./internal/tokenizer ./internal/admission ./internal/server ./internal/server/turn

# The CPU kernels alone, on every instruction set of this processor.
test-kernels: build
	@echo "==> CPU kernels"
	@$(CMAKE_BUILD) build/mlx-c --target kernels_test >build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@build/mlx-c/kernels/kernels_test $(KERNEL_ROUNDS)
KERNEL_ROUNDS ?= 8

# Every test runs once: what RACED and RACED_NATIVE name runs in test-race.
RACED_NATIVE := Close|Concurrent|Ended|Cancel|EveryWay|SlowReader|Panic

# Go commands that begin together would each compile the same packages: these targets compile them once, for those that follow.
compiled: build
	@$(GO) list -test -deps -export ./... >/dev/null
compiled-race: build
	@$(GO) list -race -test -deps -export $(RACED) ./native >/dev/null

test-go: test-packages test-native

# `make lint` vets every package, with more checks than `go test` has.
UNVETTED := $(GOTEST) -vet=off

test-packages: compiled browser
	@echo "==> Go tests"
	@$(UNVETTED) ./tests/parity $$($(GO) list ./... | grep -vxF "$$($(GO) list $(RACED) ./native ./tests/parity)")

test-native: compiled
	@echo "==> Go tests of the native engine"
	@$(UNVETTED) -skip '$(RACED_NATIVE)' ./native

test-race: race-rest race-bridge-1 race-bridge-2

# The tests of ./bridge wait for workers to start; two halves side by side use both processors.
.PHONY: race-bridge-1 race-bridge-2 race-rest
race-bridge-1: compiled-race
	@echo "==> Go tests of the workers, with the race detector"
	@$(UNVETTED) -race -run '^TestReal([A-O]|Soak)' ./bridge
race-bridge-2: compiled-race
	@$(UNVETTED) -race -skip '^TestReal([A-O]|Soak)' ./bridge
race-rest: compiled-race
	@echo "==> Go tests with the race detector"
	@$(UNVETTED) -race $(filter-out ./bridge,$(RACED))
	@$(UNVETTED) -race -run '$(RACED_NATIVE)' ./native

test-python: build
	@echo "==> Python tests"
	@$(VPYTHON) -m unittest discover -s tests/python

# The official clients of OpenAI and Anthropic, in Python and in Go, against the server.
$(VENV)/.clients: tests/clients/requirements.txt $(VENV)/.ready
	@$(RETRY) $(VPYTHON) -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

test-clients: build $(VENV)/.clients
	@echo "==> Official clients against the server"
	@cd tests/clients && $(abspath $(VPYTHON)) -m unittest test_openai test_anthropic
	@cd tests/clients/go && $(GO) vet ./... && $(GO) test -count=1 -timeout 45m ./...

# The package as other modules use it: by replace, as a published module over installed libraries, and without cgo.
test-outside: build
	@echo "==> Other modules"
	@cd tests/outside && $(GO) vet ./... && $(GO) test -count=1 -timeout 45m ./...

test-rust: tools
	@echo "==> Rust tests"
	@$(CARGO) test --quiet --locked --no-default-features --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust

# Bounded by a number of tries, for the go command calls it a failure when a time is over at the wrong moment: enough to notice a
# decoder that fails on what is near its seeds.
FUZZTIME ?= 20000x

fuzz: build
	@echo "==> Fuzzing, $(FUZZTIME) each"
	@$(GOTEST) -run '^$$' -fuzz FuzzReadFrame -fuzztime $(FUZZTIME) ./bridge
	@$(GOTEST) -run '^$$' -fuzz FuzzConn -fuzztime $(FUZZTIME) ./bridge
	@$(GOTEST) -run '^$$' -fuzz FuzzRead -fuzztime $(FUZZTIME) ./internal/safetensors
	@$(GOTEST) -run '^$$' -fuzz FuzzSplitter -fuzztime $(FUZZTIME) ./internal/segment
	@$(GOTEST) -run '^$$' -fuzz FuzzCutter -fuzztime $(FUZZTIME) ./internal/segment
	@$(GOTEST) -run '^$$' -fuzz FuzzOpen -fuzztime $(FUZZTIME) ./internal/gguf
	@$(GOTEST) -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME) ./internal/head
	@$(GOTEST) -run '^$$' -fuzz FuzzDecodeNeverFails -fuzztime $(FUZZTIME) ./internal/tokenizer
	@$(GOTEST) -run '^$$' -fuzz FuzzTemplate -fuzztime $(FUZZTIME) ./internal/tokenizer
	@$(GOTEST) -run '^$$' -fuzz FuzzGrammar -fuzztime $(FUZZTIME) ./internal/tokenizer

lint: compiled
	@git ls-files >/dev/null # git says why it cannot
	@odd=$$(sh tools/oddfiles.sh); test -z "$$odd" || { echo "committed by mistake:"; echo "$$odd"; exit 1; }
	@unformatted=$$(gofmt -l $$(git ls-files '*.go') </dev/null) || exit 1; test -z "$$unformatted" || { echo "not formatted:"; echo "$$unformatted"; exit 1; }
	@$(GO) vet ./...
	@$(GO) vet -tags long ./tests/parity ./tests/architectures ./tests/training
	@$(GO) vet -tags real ./tests/real
	@$(GO) vet -tags cuda ./native/... ./internal/fused
	@CGO_ENABLED=0 $(GO) vet . ./bridge ./cmd/...
	@$(GOTEST) ./tests/api

# Compiles the standard library for each of them, which is why it is not in lint.
lint-platforms:
	@echo "==> go vet for other systems"
	@for os in windows darwin freebsd; do CGO_ENABLED=0 GOOS=$$os $(GO) vet . ./bridge || exit 1; done

# --- installing ------------------------------------------------------------------------------------
# Everything in the form that it has below PREFIX: the program, the libraries, headers and a pkg-config file for programs
# that are built with -tags pkgconfig, manual pages and completions. The program finds its libraries beside itself.
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STAGE   := build/stage
ORIGIN  := $(if $(filter Darwin,$(shell uname -s)),@executable_path,$$ORIGIN)
TOKENIZER_LIBS := $(if $(filter Darwin,$(shell uname -s)),-framework CoreFoundation,-lm -ldl -lpthread)

# Go keeps what it compiled with the flags of pkg-config, for any folder with the same source (-trimpath), and does not see that they have changed
# (https://go.dev/issue/24544). So the linker learns where the libraries are from its environment.
stage: build
	@rm -rf $(STAGE) && mkdir -p $(STAGE)/bin $(STAGE)/lib/go-mlx/mlx/lib $(STAGE)/lib/pkgconfig $(STAGE)/include/go-mlx
	@cp $(LIB)/libmlxc.$(SHLIB) $(LIB)/libgomlx_kernels.$(SHLIB) $(LIB)/libgomlx_tokenizer.a $(STAGE)/lib/go-mlx/
	@cp -RL build/mlx/lib/. $(STAGE)/lib/go-mlx/mlx/lib/
	@for d in "$$(readlink build/mlx)"/../mlx_*.libs; do test ! -d "$$d" || cp -RL "$$d" $(STAGE)/lib/go-mlx/; done
	@cp -R build/include/mlx build/include/gomlx_kernels.h build/include/gomlx_cuda.h $(STAGE)/include/go-mlx/
	@printf 'prefix=$${pcfiledir}/../..\nlibdir=$${prefix}/lib/go-mlx\nName: go-mlx\nDescription: MLX for Go programs\nVersion: %s\nCflags: -I$${prefix}/include/go-mlx\nLibs: -L$${libdir} -lgomlx_kernels -lmlxc -lgomlx_tokenizer %s -Wl,-rpath,$${libdir}\n' \
	  "$(VERSION)" "$(TOKENIZER_LIBS)" > $(STAGE)/lib/pkgconfig/go-mlx.pc
	@mkdir -p $(STAGE)-pkgconfig && sed 's|^prefix=.*|prefix=$(abspath $(STAGE))|; s|^Libs:.* -lgomlx_kernels \(.*\) -Wl,-rpath,.*|Libs: -lgomlx_kernels \1|' $(STAGE)/lib/pkgconfig/go-mlx.pc > $(STAGE)-pkgconfig/go-mlx.pc
	@PKG_CONFIG_PATH=$(abspath $(STAGE)-pkgconfig) LIBRARY_PATH=$(abspath $(STAGE))/lib/go-mlx \
	  $(GO) build -tags pkgconfig -trimpath -ldflags '-s -w -X main.version=$(VERSION) -r $(ORIGIN)/../lib/go-mlx' -o $(STAGE)/bin/go-mlx ./cmd/go-mlx
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) $(STAGE)/bin/go-mlx man $(STAGE)/share/man/man1
	@mkdir -p $(STAGE)/share/doc/go-mlx && GO=$(GO) CARGO=$(CARGO) $(VPYTHON) tools/licenses.py > $(STAGE)/share/doc/go-mlx/LICENSES.txt
	@mkdir -p $(STAGE)/share/bash-completion/completions $(STAGE)/share/zsh/site-functions $(STAGE)/share/fish/vendor_completions.d
	@$(STAGE)/bin/go-mlx completion bash > $(STAGE)/share/bash-completion/completions/go-mlx
	@$(STAGE)/bin/go-mlx completion zsh > $(STAGE)/share/zsh/site-functions/_go-mlx
	@$(STAGE)/bin/go-mlx completion fish > $(STAGE)/share/fish/vendor_completions.d/go-mlx.fish

install: stage ## the program, libraries and headers below PREFIX
	@mkdir -p "$(DESTDIR)$(PREFIX)" && cp -R $(STAGE)/. "$(DESTDIR)$(PREFIX)/"
	@echo "go-mlx $(VERSION) is in $(DESTDIR)$(PREFIX); try $(DESTDIR)$(PREFIX)/bin/go-mlx doctor"

# dist/go-mlx-VERSION-SYSTEM-MACHINE.tar.gz, to be unpacked anywhere, and its checksum.
RELEASE = go-mlx-$(VERSION)-$(shell $(GO) env GOOS)-$(shell $(GO) env GOARCH)
release: stage ## the same as an archive in dist/
	@rm -rf dist/$(RELEASE) && mkdir -p dist/$(RELEASE) && cp -R $(STAGE)/. dist/$(RELEASE)/ && cp README.md CHANGELOG.md requirements.txt requirements-cuda.txt dist/$(RELEASE)/
	@cd dist && tar -czf $(RELEASE).tar.gz $(RELEASE) && rm -rf $(RELEASE) && { sha256sum $(RELEASE).tar.gz 2>/dev/null || shasum -a 256 $(RELEASE).tar.gz; } > $(RELEASE).tar.gz.sha256
	@echo "dist/$(RELEASE).tar.gz"

# On Linux: compiles and links everything for macOS on Apple Silicon.
check-darwin: build ## whether the program compiles and links for macOS
	@sh tests/darwin/check.sh

clean: ## removes what was built; distclean removes what was downloaded, too
	@rm -rf bin dist build/mlx-c build/lib build/include build/rust build/stage* build/darwin build/*.log build/demo.*

distclean: clean
	@rm -rf build $(VENV)

include tests/laboratory.mk
include tests/quality/quality.mk
