#!/bin/sh
# Measures classification on the strings of translation catalogues; `make quality` runs it from the project's root. The table is in
# build/quality/table.md.
set -eu
out=build/quality
real=build/real
PYTHON=${PYTHON:-.venv/bin/python} sh tests/real/fetch.sh --models
test -x $out/venv/bin/python || python3 -m venv $out/venv
$out/venv/bin/pip install --quiet --disable-pip-version-check -r tests/quality/requirements.txt
$out/venv/bin/python tests/quality/data.py $out
$out/venv/bin/python tests/quality/baselines.py $out

measure() { # RESULT MODEL OPTIONS...
	result=$1 measured=$2
	shift 2
	bin/go-mlx classifier eval "$measured" --results $out/$result.json --html $out/$result.html "$@" >$out/$result.txt
}
head() { # RESULT MODEL OPTIONS...: a trained classifier, and from how many texts it abstains, of known domains and of others
	trained=$1 with=$2
	shift 2
	bin/go-mlx classifier train "$with" "$@" --data $out/train.tsv --out $out/$trained.safetensors >$out/$trained-train.txt
	measure $trained "$with" "$@" --classifier $out/$trained.safetensors --data $out/test.tsv
	measure $trained-energy "$with" "$@" --classifier $out/$trained.safetensors --abstain-by energy --data $out/test.tsv
	measure $trained-unknown "$with" "$@" --classifier $out/$trained.safetensors --data $out/unknown.tsv
	measure $trained-unknown-energy "$with" "$@" --classifier $out/$trained.safetensors --abstain-by energy --data $out/unknown.tsv
}
# One example of each of the first eight domains: more would not fit into a small model's context.
awk -F'\t' '$3 == "en" && length($2) > 20 && !seen[$1]++ {example[$1] = $2} END {n = 0
	while ((getline label < "'$out'/labels.txt") > 0) { print label; if (n++ < 8) print "  e.g. " example[label] } }' $out/train.tsv >$out/examples.txt
for family in gemma:gemma-3-270m-q4_k_m smollm2:smollm2-135m-q4_1; do
	name=${family%%:*} model=$real/${family#*:}.gguf
	head $name-head "$model"
	measure $name-default "$model" --data $out/test.tsv --labels $out/labels.txt --prior none --prompt 'Classify the text. Answer with one of: {labels}.

Text: {text}'
	measure $name-best "$model" --data $out/test.tsv --labels $out/labels.txt --prompt '"{text}" is a sentence about {label}'
	measure $name-examples "$model" --data $out/test.tsv --labels $out/examples.txt --prior batch --prompt '"{text}" is a sentence about {label}'
done
# A LoRA that was taught to go on with the domain, and a head on the states of the model with it.
model=$real/gemma-3-270m-q4_k_m.gguf
if ! test -e $out/lora/adapter/adapters.safetensors; then
	$out/venv/bin/python tests/quality/lora.py $out
	bin/go-mlx train "$model" --data $out/lora --out $out/lora/adapter --iters 150 --batch-size 8 --num-layers 9 --learning-rate 1e-4 --max-seq-length 65 >$out/lora.log
fi
head gemma-lora "$model" --adapter $out/lora/adapter
$out/venv/bin/python tests/quality/table.py $out majority words characters embeddings gemma-default gemma-best gemma-examples gemma-head gemma-lora \
	smollm2-default smollm2-best smollm2-examples smollm2-head | tee $out/table.md
for other in characters embeddings gemma-best gemma-lora; do
	bin/go-mlx classifier compare $out/gemma-head.json $out/$other.json
done
