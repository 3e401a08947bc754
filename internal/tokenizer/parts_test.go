package tokenizer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/gguf"
)

// Kinds of tokens, as in gguf.
const (
	normal, unknown, control, userDefined, unused, byteToken = 1, 2, 3, 4, 5, 6
)

// sameTokenizers compares the tokenizer that is made of a file's parts with the one that is read from the tokenizer.json that the
// file was made from, whose merges are written down.
func sameTokenizers(t *testing.T, h *gguf.Header, texts func() string) {
	t.Helper()
	parts, err := h.Parts()
	require.NoError(t, err)
	json, err := h.Tokenizer()
	require.NoError(t, err)
	got, err := OfParts(parts)
	want, wantErr := New(json)
	if wantErr != nil {
		require.Error(t, err, "tokenizer.json: %v", wantErr)
		return
	}
	defer want.Close()
	require.NoError(t, err)
	defer got.Close()
	require.Equal(t, want.VocabSize(), got.VocabSize())
	tokens := h.Metadata["tokenizer.ggml.tokens"].([]string)
	for id := range int32(len(tokens) + 3) {
		for _, skip := range []bool{false, true} {
			a, err := want.Decode([]int32{id}, skip)
			require.NoError(t, err)
			b, err := got.Decode([]int32{id}, skip)
			require.NoError(t, err)
			require.Equal(t, a, b, "token %d of %q", id, tokens)
		}
	}
	for range 60 {
		text := texts()
		for _, special := range []bool{false, true} {
			a, err := want.Encode(text, special)
			require.NoError(t, err)
			b, err := got.Encode(text, special)
			require.NoError(t, err)
			require.Equal(t, a, b, "%q with %v", text, h.Metadata)
		}
	}
}

// Random vocabularies of few letters, whose tokens arise in many ways: equal scores, tokens that are there twice or not merged, runs of
// spaces, unknown letters and bytes.
func TestScoresMergeAsTheMergesThatFollowFromThem(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 1))
	letters := []string{"a", "b", "é", "▁", "€"}
	for range 400 {
		tokens, kinds := []string{"<unk>", "<s>", "</s>"}, []int64{unknown, control, control}
		if random.IntN(2) == 0 {
			for b := range 256 {
				tokens, kinds = append(tokens, fmt.Sprintf("<0x%02X>", b)), append(kinds, byteToken)
			}
		}
		for _, letter := range letters[:2+random.IntN(4)] {
			tokens, kinds = append(tokens, letter), append(kinds, normal)
		}
		for range random.IntN(40) {
			var token strings.Builder
			for range 1 + random.IntN(5) {
				token.WriteString(letters[random.IntN(len(letters))])
			}
			kind := int64(normal)
			switch random.IntN(12) {
			case 0:
				kind = userDefined
			case 1:
				kind = unused
			case 2:
				kind = control
			case 3:
				token.Reset()
				token.WriteString(strings.Repeat(" ", 1+random.IntN(3)))
				kind = userDefined
			case 4:
				token.Reset() // a token without text
			case 5:
				token.Reset()
				token.WriteString(tokens[random.IntN(len(tokens))])
			}
			tokens, kinds = append(tokens, token.String()), append(kinds, kind)
		}
		scores := make([]float64, len(tokens))
		for i := range scores {
			switch random.IntN(8) {
			case 0:
				scores[i] = 0
			case 1:
				scores[i] = []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1)}[random.IntN(4)]
			default:
				scores[i] = float64(-random.IntN(6))
			}
		}
		metadata := map[string]any{
			"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
			"tokenizer.ggml.scores": scores, "tokenizer.ggml.bos_token_id": int64(1), "tokenizer.ggml.add_space_prefix": random.IntN(2) == 0,
		}
		if random.IntN(3) == 0 { // the unknown token may be any, one that is merged too
			metadata["tokenizer.ggml.unknown_token_id"] = int64(random.IntN(len(tokens)))
		}
		sameTokenizers(t, &gguf.Header{Metadata: metadata}, func() string {
			var text strings.Builder
			for range random.IntN(24) {
				text.WriteString([]string{"a", "b", "a", "b", "é", "▁", " ", "  ", "€", "z", "𓀀", "<unk>", "<s>"}[random.IntN(13)])
			}
			return text.String()
		})
	}
}

func TestMergesOfAFileAreThoseOfItsJSON(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 2))
	for range 200 {
		tokens, merges := []string{"a", "b", "c", "Ġ", "Ã", "©", "<e>"}, []string{}
		for range random.IntN(30) {
			left, right := tokens[random.IntN(len(tokens))], tokens[random.IntN(len(tokens))]
			merges = append(merges, left+" "+right)
			if random.IntN(60) > 0 { // or the merge makes no token
				tokens = append(tokens, left+right)
			}
		}
		kinds := make([]int64, len(tokens))
		for i := range kinds {
			kinds[i] = normal
		}
		kinds[6] = control
		pre := []string{"gpt-2", "llama-bpe", "qwen2"}[random.IntN(3)]
		sameTokenizers(t, &gguf.Header{Metadata: map[string]any{
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
			"tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": int64(6), "tokenizer.ggml.add_eos_token": true,
		}}, func() string {
			var text strings.Builder
			for range random.IntN(24) {
				text.WriteString([]string{"a", "b", "c", "a", "b", "é", " ", "<e>"}[random.IntN(8)])
			}
			return text.String()
		})
	}
}

// What lists claim is checked before it is read.
func TestPartsThatDoNotFitAreErrors(t *testing.T) {
	whole := func() *gguf.Parts {
		h := &gguf.Header{Metadata: map[string]any{
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": []string{"a", "é", "aé"},
			"tokenizer.ggml.merges": []string{"a é"},
		}}
		parts, err := h.Parts()
		require.NoError(t, err)
		return parts
	}
	for name, spoil := range map[string]func(*gguf.Parts){
		"a token behind the text":   func(p *gguf.Parts) { p.Ends[2] = 100 },
		"a token that ends early":   func(p *gguf.Parts) { p.Ends[1] = 0 },
		"half a letter":             func(p *gguf.Parts) { p.Ends[1] = 2 },
		"a merge behind the text":   func(p *gguf.Parts) { p.MergeEnds[0] = 100 },
		"a space behind the merge":  func(p *gguf.Parts) { p.MergeSpaces[0] = 100 },
		"the last space there is":   func(p *gguf.Parts) { p.MergeSpaces[0] = math.MaxUint32 },
		"an unknown token too many": func(p *gguf.Parts) { p.Unknown = 3 },
		"no rest":                   func(p *gguf.Parts) { p.Rest = nil },
		"a rest of another kind":    func(p *gguf.Parts) { p.Rest = []byte(`{"normalizer":7}`) },
	} {
		t.Run(name, func(t *testing.T) {
			parts := whole()
			spoil(parts)
			_, err := OfParts(parts)
			require.Error(t, err)
		})
	}
	tok, err := OfParts(whole())
	require.NoError(t, err)
	tok.Close()
}
