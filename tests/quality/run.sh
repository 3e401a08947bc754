#!/bin/sh
# Measures classification on the strings of translation catalogues; `make quality` runs it from the project's root. The table is in
# build/quality/table.md, written anew after each row. A run that was broken off goes on with the row it was at: rows whose data and options are
# the same are kept. FRESH=1 measures all of them again, as is right after a change of the program. What each row took is in times.txt.
set -eu
out=build/quality
real=build/real
venv=$out/venv/bin/python
PYTHON=${PYTHON:-.venv/bin/python}
NAMES="majority words characters embeddings gemma-default gemma-best gemma-examples gemma-head gemma-lora \
smollm2-default smollm2-best smollm2-examples smollm2-head"
PYTHON=$PYTHON sh tests/real/fetch.sh --models
$venv -c 'import pip' 2>/dev/null || $PYTHON -m venv --clear $out/venv
sh tools/retry.sh $venv -m pip install --quiet --disable-pip-version-check -r tests/quality/requirements.txt
$venv tests/quality/data.py $out
$venv tests/quality/corpus.py $out
mkdir -p $out/rows
test -z "${FRESH:-}" || rm -f $out/rows/*

seconds() { # sets used to the seconds of processors that commands have used so far; a pipe would have times of its own
	times >$out/rows/.times
	used=$(awk 'NR == 2 { split($1, user, "[ms]"); split($2, kernel, "[ms]"); print int(60 * (user[1] + kernel[1]) + user[2] + kernel[2]) }' $out/rows/.times)
}
row() { # NAME COMMAND...: sets name, and runs the command unless it did so for the same data and with the same words
	name=$1
	shift
	key=$(printf '%s\n' "$@" | cat - $out/labels.txt $out/examples.txt $out/train.tsv $out/test.tsv $out/unknown.tsv $out/corpus-train.tsv $out/corpus-test.tsv tests/corpus/labels.txt tests/quality/*.py internal/head/file.go | cksum)
	test "$(cat $out/rows/$name 2>/dev/null)" != "$key" || return 0
	echo "==> $name" >&2
	seconds
	begun=$(date +%s) before=$used
	"$@"
	echo "$key" >$out/rows/$name.part
	mv $out/rows/$name.part $out/rows/$name
	seconds
	echo "$name $(($(date +%s) - begun)) s, $((used - before)) s of processors" >>$out/times.txt
	$venv tests/quality/table.py $out $NAMES >$out/table.md.part
	mv $out/table.md.part $out/table.md
}
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
corpus() { # RESULT MODEL: the domain corpus by a head
	bin/go-mlx classifier train "$2" --data $out/corpus-train.tsv --out $out/$1.safetensors >$out/$1-train.txt
	measure $1 "$2" --classifier $out/$1.safetensors --data $out/corpus-test.tsv
}
lora() { # a LoRA that is trained together with a head, and then the head anew on the states of the model with it
	rm -rf $out/float32 $out/lora
	bin/go-mlx convert "$1" --dtype float32 --out $out/float32 --quiet
	$venv tests/quality/lora.py $out 1200 2 >$out/lora.log
	rm -r $out/float32
}

# One example of each of the first eight domains: more would not fit into a small model's context.
awk -F'\t' '$3 == "en" && length($2) > 20 && !seen[$1]++ {example[$1] = $2} END {n = 0
	while ((getline label < "'$out'/labels.txt") > 0) { print label; if (n++ < 8) print "  e.g. " example[label] } }' $out/train.tsv >$out/examples.txt
# The quick rows first.
for baseline in majority words characters; do
	row $baseline $venv tests/quality/baselines.py $out $baseline
done
gemma=$real/gemma-3-270m-q4_k_m.gguf smollm2=$real/smollm2-135m-q4_1.gguf
row gemma-head head gemma-head $gemma
row smollm2-head head smollm2-head $smollm2
row gemma-corpus corpus gemma-corpus $gemma
row smollm2-corpus corpus smollm2-corpus $smollm2
for family in gemma smollm2; do
	eval "model=\$$family"
	completion='"{text}" is a sentence about {label}'
	row $family-best measure $family-best "$model" --data $out/test.tsv --labels $out/labels.txt --prompt "$completion"
	row $family-corpus-best measure $family-corpus-best "$model" --data $out/corpus-test.tsv --labels tests/corpus/labels.txt --prompt "$completion"
	row $family-examples measure $family-examples "$model" --data $out/test.tsv --labels $out/examples.txt --prior batch --prompt "$completion"
	row $family-default measure $family-default "$model" --data $out/test.tsv --labels $out/labels.txt --prior none --prompt 'Classify the text. Answer with one of: {labels}.

Text: {text}'
done
row embeddings $venv tests/quality/baselines.py $out embeddings
row lora lora $gemma
row gemma-lora head gemma-lora $gemma --adapter $out/lora/adapter
cat $out/table.md
for other in characters embeddings gemma-best gemma-lora; do
	bin/go-mlx classifier compare $out/gemma-head.json $out/$other.json
done
