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

measure() { # NAME MODEL OPTIONS...
	name=$1 model=$2
	shift 2
	bin/go-mlx classifier eval "$model" --data $out/test.tsv --results $out/$name.json --html $out/$name.html "$@" >$out/$name.txt
}
# One example of each of the first eight domains: more would not fit into a small model's context.
awk -F'\t' '$3 == "en" && length($2) > 20 && !seen[$1]++ {example[$1] = $2} END {n = 0
	while ((getline label < "'$out'/labels.txt") > 0) { print label; if (n++ < 8) print "  e.g. " example[label] } }' $out/train.tsv >$out/examples.txt
for family in gemma:gemma-3-270m-q4_k_m smollm2:smollm2-135m-q4_1; do
	name=${family%%:*} model=$real/${family#*:}.gguf
	bin/go-mlx classifier train "$model" --data $out/train.tsv --out $out/$name.safetensors >$out/$name-train.txt
	measure $name-head "$model" --classifier $out/$name.safetensors
	measure $name-default "$model" --labels $out/labels.txt --prior none --prompt 'Classify the text. Answer with one of: {labels}.

Text: {text}'
	measure $name-best "$model" --labels $out/labels.txt --prompt '"{text}" is a sentence about {label}'
	measure $name-examples "$model" --labels $out/examples.txt --prior batch --prompt '"{text}" is a sentence about {label}'
done
bin/go-mlx classifier eval $real/gemma-3-270m-q4_k_m.gguf --classifier $out/gemma.safetensors --data $out/unknown.tsv --results $out/gemma-unknown.json >$out/gemma-unknown.txt
$out/venv/bin/python tests/quality/table.py $out majority words characters gemma-default gemma-best gemma-examples gemma-head \
	smollm2-default smollm2-best smollm2-examples smollm2-head | tee $out/table.md
for other in characters gemma-best; do
	bin/go-mlx classifier compare $out/gemma-head.json $out/$other.json
done
