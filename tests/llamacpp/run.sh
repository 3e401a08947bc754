#!/bin/sh
# Fetches llama.cpp and Gemma 3 270M into build/, makes the same model in the forms that both sides read, and compares.
set -eu
cd "$(dirname "$0")/../.."
sh tests/real/fetch.sh --models
out=build/llamacpp
sh tests/llamacpp/fetch.sh
cp tests/llamacpp/peer.mjs "$out/"
gguf=build/real/gemma-3-270m-q4_k_m.gguf
# Each is made beside and renamed, so that what is there is whole.
rm -rf "$out"/*.part
make_model() { # FOLDER ARGUMENTS...
  folder=$1
  shift
  if [ ! -e "$folder" ]; then
    bin/go-mlx convert "$@" --out "$folder.part"
    mv "$folder.part" "$folder"
  fi
}
make_model "$out/bf16" "$gguf"
make_model "$out/4bit" "$out/bf16" --bits 4
# The scripts that write GGUF files need the gguf package.
"$out/venv/bin/python" -c 'import gguf' 2>/dev/null || {
  "${PYTHON:-python3}" -m venv --clear "$out/venv"
  sh tools/retry.sh "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check gguf==0.19.0
}
if [ ! -e "$out/bf16.gguf" ]; then
  "$out/venv/bin/python" tests/llamacpp/bf16_gguf.py "$gguf" "$out/bf16.gguf.part"
  mv "$out/bf16.gguf.part" "$out/bf16.gguf"
fi
echo "==> bfloat16, against llama.cpp's BF16"
go run ./tests/llamacpp -model "$out/bf16" -gguf "$out/bf16.gguf"
echo "==> four bits, against llama.cpp's Q4_K_M"
go run ./tests/llamacpp -model "$out/4bit" -gguf "$gguf"

# The same with both sides held to AVX2: a copy of llama.cpp whose builds for anything newer are taken away.
avx2="$out/avx2"
if [ ! -d "$avx2" ]; then
  mkdir "$avx2.part"
  cp -R "$out/node_modules" "$out/package.json" "$avx2.part/"
  find "$avx2.part/node_modules/@node-llama-cpp" -name 'libggml-cpu-*.so' ! -name '*-haswell.so' ! -name '*-x64.so' ! -name '*-sse42.so' ! -name '*-sandybridge.so' ! -name '*-ivybridge.so' -delete
  mv "$avx2.part" "$avx2"
fi
cp tests/llamacpp/peer.mjs "$avx2/"
echo "==> bfloat16, both with AVX2"
GO_MLX_CPU=avx2 go run ./tests/llamacpp -peer "$avx2" -model "$out/bf16" -gguf "$out/bf16.gguf"
echo "==> four bits, both with AVX2"
GO_MLX_CPU=avx2 go run ./tests/llamacpp -peer "$avx2" -model "$out/4bit" -gguf "$gguf"

# The shape of Gemma 3 1B with random weights, 4 GB on disk: SHAPE_1B=1 make bench-llamacpp.
if [ -n "${SHAPE_1B:-}" ]; then
  for kind in BF16 Q4_0 Q4_K_M; do
    shape="$out/1b-$kind.gguf"
    if [ ! -e "$shape" ]; then
      "$out/venv/bin/python" tests/llamacpp/shape_gguf.py "$gguf" "$shape.part" "$kind"
      mv "$shape.part" "$shape"
    fi
    echo "==> the shape of Gemma 3 1B, $kind"
    go run ./tests/llamacpp -model "$shape" -gguf "$shape"
  done
  make_model "$out/1b-4bit" "$out/1b-BF16.gguf" --bits 4
  echo "==> the shape of Gemma 3 1B in four bits, against llama.cpp's Q4_K_M"
  go run ./tests/llamacpp -model "$out/1b-4bit" -gguf "$out/1b-Q4_K_M.gguf"
fi
