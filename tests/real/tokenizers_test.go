//go:build real

package real

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// nasty is 2,000 texts: sentences in several languages, their pieces, and what tokenizers stumble over.
func nasty(t testing.TB) []string {
	random := rand.New(rand.NewPCG(16, 1))
	texts := testenv.Texts(t)
	extra := []string{
		"", " ", "  ", "   x", "\n", "\n\n\n", "\t\t", "\r\n", "a", "▁", "▁▁x", "<bos>", "<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<0x41>", "<table>", "<think>",
		"日本語のテキスト", "Привет, мир", "مرحبا", "שלום", "👍🏽👨‍👩‍👧‍👦🏳️‍🌈", "e\u0301 é", "\u0000\u0001\u007f", "\uFFFD", "ǅ ﬁ ½ ①", "func main() {\n\t\tfmt.Println(\"hi\")\n}",
		"1234567890.00 €", "12 345", "\U0010FFFF", "नमस्ते", "it's we'LL I'M", "don’t", strings.Repeat("a", 300), strings.Repeat("ß ", 100), strings.Repeat("\n", 50), strings.Repeat(" ", 40) + "x", "ﷺ", "a\u00a0b", "x\u3000y",
	}
	corpus := append(append([]string{}, texts...), extra...)
	for len(corpus) < 2000 {
		runes := []rune(texts[random.IntN(len(texts))])
		from := random.IntN(len(runes))
		piece := string(runes[from : from+random.IntN(len(runes)-from)+1])
		switch random.IntN(4) {
		case 0:
			piece += extra[random.IntN(len(extra))]
		case 1:
			piece = extra[random.IntN(len(extra))] + piece
		case 2:
			letters := make([]rune, random.IntN(12))
			for i := range letters {
				for letters[i] = rune(random.IntN(0x11000)); letters[i] >= 0xD800 && letters[i] < 0xE000; {
					letters[i] = rune(random.IntN(0x11000))
				}
			}
			piece += string(letters)
		}
		corpus = append(corpus, piece)
	}
	return corpus
}

// vocabularies are the four tokenizers, as tokenizer.json.
func vocabularies(t testing.TB) map[string][]byte {
	out := map[string][]byte{}
	for _, name := range []string{"gemma3", "qwen3", "llama3_1"} {
		data, err := os.ReadFile(realFile(t, filepath.Join("tokenizer-"+name, "tokenizer.json")))
		require.NoError(t, err)
		out[name] = data
	}
	from, err := modelfiles.Find(realFile(t, smolLM))
	require.NoError(t, err)
	out["smollm2"], err = from.Read("tokenizer.json")
	require.NoError(t, err)
	return out
}

func TestIdsAndTextAreThoseOfPython(t *testing.T) {
	corpus := nasty(t)
	for name, data := range vocabularies(t) {
		t.Run(name, func(t *testing.T) {
			tok, err := tokenizer.New(data)
			require.NoError(t, err)
			defer tok.Close()
			random := rand.New(rand.NewPCG(16, 2))
			var sequences [][]int32
			for i := range 1600 {
				ids, err := tok.Encode(corpus[i], false)
				require.NoError(t, err)
				if i%2 == 0 && len(ids) > 1 {
					from := random.IntN(len(ids))
					ids = ids[from : from+1+random.IntN(len(ids)-from)]
				} else {
					ids = make([]int32, 1+random.IntN(12))
					for j := range ids {
						ids[j] = int32(random.IntN(tok.VocabSize()))
					}
				}
				sequences = append(sequences, ids)
			}
			file := filepath.Join(t.TempDir(), "tokenizer.json")
			require.NoError(t, os.WriteFile(file, data, 0o644))
			var want struct {
				IDs     [][]int32 `json:"ids"`
				Decoded []string  `json:"decoded"`
			}
			testenv.RunPython(t, "decode_ids.py", map[string]any{"tokenizer": file, "texts": corpus, "ids": sequences}, &want)
			for i, text := range corpus {
				ids, err := tok.Encode(text, true)
				require.NoError(t, err)
				require.Equal(t, want.IDs[i], append([]int32{}, ids...), "%q", text)
				requireStream(t, tok, ids)
			}
			for i, ids := range sequences {
				got, err := tok.Decode(ids, true)
				require.NoError(t, err)
				require.Equal(t, want.Decoded[i], got, "%v", ids)
				requireStream(t, tok, ids)
			}
		})
	}
}

// requireStream compares the pieces of a stream with the whole text.
func requireStream(t *testing.T, tok *tokenizer.Tokenizer, ids []int32) {
	t.Helper()
	whole, err := tok.Decode(ids, true)
	require.NoError(t, err)
	d := tok.NewStreamDecoder(true)
	var got strings.Builder
	for _, id := range ids {
		piece, err := d.Add(id)
		require.NoError(t, err)
		got.WriteString(piece)
	}
	rest, err := d.Finish()
	require.NoError(t, err)
	require.Equal(t, whole, got.String()+rest, "%v", ids)
}

// What a GGUF file tells of its tokenizer makes the ids of the tokenizer that it was converted from.
func TestTokenizersFromMetadataAreTheOriginals(t *testing.T) {
	from, err := modelfiles.Find(realFile(t, gemma))
	require.NoError(t, err)
	header, err := from.Header()
	require.NoError(t, err)
	originals := vocabularies(t)
	headers := map[string]*gguf.Header{
		"gemma3":   header,
		"qwen3":    converted(t, originals["qwen3"], "qwen2", false),
		"llama3_1": converted(t, originals["llama3_1"], "llama-bpe", true),
	}
	corpus := nasty(t)
	for name, h := range headers {
		for form, read := range map[string]func() (*tokenizer.Tokenizer, error){
			"parts": func() (*tokenizer.Tokenizer, error) {
				parts, err := h.Parts()
				require.NoError(t, err)
				return tokenizer.OfParts(parts)
			},
			"tokenizer.json": func() (*tokenizer.Tokenizer, error) {
				derived, err := h.Tokenizer()
				require.NoError(t, err)
				return tokenizer.New(derived)
			},
		} {
			t.Run(name+", "+form, func(t *testing.T) {
				got, err := read()
				require.NoError(t, err)
				defer got.Close()
				want, err := tokenizer.New(originals[name])
				require.NoError(t, err)
				defer want.Close()
				for _, text := range corpus {
					a, err := want.Encode(text, true)
					require.NoError(t, err)
					b, err := got.Encode(text, true)
					require.NoError(t, err)
					require.Equal(t, a, b, "%q", text)
					c, err := want.Decode(a, true)
					require.NoError(t, err)
					d, err := got.Decode(a, true)
					require.NoError(t, err)
					require.Equal(t, c, d, "%q", text)
				}
			})
		}
	}
}

// converted is the metadata that llama.cpp's converter makes of a byte-level tokenizer.json.
func converted(t *testing.T, data []byte, pre string, bos bool) *gguf.Header {
	var file struct {
		Model struct {
			Vocab  map[string]int `json:"vocab"`
			Merges []any          `json:"merges"`
		} `json:"model"`
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
			Special bool   `json:"special"`
		} `json:"added_tokens"`
	}
	require.NoError(t, json.Unmarshal(data, &file))
	tokens := make([]string, len(file.Model.Vocab)+len(file.Added))
	kinds := make([]int64, len(tokens))
	for i := range tokens {
		tokens[i], kinds[i] = fmt.Sprintf("[PAD%d]", i), 5
	}
	for token, id := range file.Model.Vocab {
		tokens[id], kinds[id] = token, 1
	}
	var first int64
	for _, a := range file.Added {
		tokens[a.ID], kinds[a.ID] = a.Content, 4
		if a.Special {
			kinds[a.ID] = 3
		}
		if a.Content == "<|begin_of_text|>" {
			first = int64(a.ID)
		}
	}
	var merges []string
	for _, m := range file.Model.Merges {
		switch m := m.(type) {
		case string:
			merges = append(merges, m)
		case []any:
			merges = append(merges, fmt.Sprint(m[0], " ", m[1]))
		}
	}
	return &gguf.Header{Metadata: map[string]any{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
		"tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": first, "tokenizer.ggml.add_bos_token": bos,
	}}
}
