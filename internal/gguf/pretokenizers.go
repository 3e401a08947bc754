package gguf

// preTokenizer is how a text is split before its pieces are encoded.
type preTokenizer struct {
	steps        []object // before the step that turns bytes into letters
	gpt2         bool     // that step also splits as GPT-2 did
	nfc          bool     // texts are composed first
	ignoreMerges bool     // a piece that is a token stays whole
	bos          bool     // <bos> is added unless the file says otherwise
}

func split(pattern string) object {
	return object{"type": "Split", "pattern": object{"Regex": pattern}, "behavior": "Isolated", "invert": false}
}

const (
	contractions = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	wordsAndRest = `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwenRest     = `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	casedWords   = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`
	casedWords2  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`
	slashRest    = `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

var (
	splitGPT2   = preTokenizer{gpt2: true}
	splitDigits = preTokenizer{gpt2: true, steps: []object{{"type": "Digits", "individual_digits": true}}}
	splitLlama3 = preTokenizer{steps: []object{split(contractions + wordsAndRest)}, ignoreMerges: true, bos: true}
	splitQwen2  = preTokenizer{steps: []object{split(contractions + qwenRest)}, nfc: true}
	splitTekken = preTokenizer{steps: []object{split(casedWords + "|" + casedWords2 + `|\p{N}` + slashRest)}, ignoreMerges: true, bos: true}
	splitGPT4o  = preTokenizer{steps: []object{split(casedWords + contractions + "?|" + casedWords2 + contractions + `?|\p{N}{1,3}` + slashRest)}}
)

// preTokenizers are by tokenizer.ggml.pre, llama.cpp's names (llama-vocab.cpp). Models of a family that is supported use others
// only rarely; an unknown name is an error and not a guess, since every token would be a little wrong.
var preTokenizers = map[string]preTokenizer{
	"gpt-2": splitGPT2, "gpt2": splitGPT2, "olmo": splitGPT2, "phi-2": splitGPT2, "mpt": splitGPT2, "jina-es": splitGPT2, "jina-de": splitGPT2,
	"jina-v2-es": splitGPT2, "jina-v2-de": splitGPT2, "gigachat": splitGPT2, "a.x-4.0": splitGPT2, "mellum": splitGPT2,
	"smollm": splitDigits, "starcoder": splitDigits, "refact": splitDigits, "command-r": splitDigits, "codeshell": splitDigits,
	"llama-bpe": splitLlama3, "llama3": splitLlama3, "llama-v3": splitLlama3, "falcon3": splitLlama3, "falcon-h1": splitLlama3,
	"pixtral": splitLlama3, "midm-2.0": splitLlama3, "lfm2": splitLlama3, "smaug-bpe": {steps: splitLlama3.steps}, "dbrx": {steps: splitLlama3.steps},
	"qwen2": splitQwen2, "stablelm2": {steps: splitQwen2.steps}, "deepseek-r1-qwen": splitQwen2, "megrez": splitQwen2,
	"tekken": splitTekken,
	"gpt-4o": splitGPT4o, "llama4": splitGPT4o,
}
