package tokenizer

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// fallback makes a small tokenizer that spells what it does not know in tokens of one byte: ids 0 to 3 are special, "<plain>"
// is added without being special, then come the 256 bytes, then words.
func fallback(t testing.TB, decoders ...map[string]any) (tok *Tokenizer, firstByte, size int32) {
	t.Helper()
	var added []map[string]any
	vocab := map[string]int{}
	add := func(token string) { vocab[token] = len(vocab) }
	for _, token := range []string{"<pad>", "<eos>", "<bos>", "<unk>", "<plain>"} {
		added = append(added, map[string]any{
			"id": len(vocab), "content": token, "special": token != "<plain>",
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		})
		add(token)
	}
	firstByte = int32(len(vocab))
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b))
	}
	for _, word := range []string{"▁", "a", "▁a", "b", "▁b", "é", "日", "\n", "\uFFFD", "<0xZZ>", "<0xe6>"} {
		add(word)
	}
	data, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": added, "normalizer": map[string]any{"type": "Replace", "pattern": map[string]any{"String": " "}, "content": "▁"},
		"model":   map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{"▁ a", "▁ b"}, "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true},
		"decoder": map[string]any{"type": "Sequence", "decoders": decoders},
	})
	require.NoError(t, err)
	tok, err = New(data)
	require.NoError(t, err)
	t.Cleanup(tok.Close)
	return tok, firstByte, int32(len(vocab))
}

var (
	spaces       = map[string]any{"type": "Replace", "pattern": map[string]any{"String": "▁"}, "content": " "}
	byteFallback = map[string]any{"type": "ByteFallback"}
	fuse         = map[string]any{"type": "Fuse"}
	strip        = map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0}
)

// stream decodes ids piece by piece.
func stream(t testing.TB, tok *Tokenizer, ids []int32, skip bool) (pieces []string) {
	t.Helper()
	d := tok.NewStreamDecoder(skip)
	for _, id := range ids {
		piece, err := d.Add(id)
		require.NoError(t, err)
		pieces = append(pieces, piece)
	}
	rest, err := d.Finish()
	require.NoError(t, err)
	return append(pieces, rest)
}

func requireWhole(t testing.TB, tok *Tokenizer, ids []int32) {
	t.Helper()
	for _, skip := range []bool{true, false} {
		whole, err := tok.Decode(ids, skip)
		require.NoError(t, err)
		pieces := stream(t, tok, ids, skip)
		require.Equal(t, whole, strings.Join(pieces, ""), "%v", ids)
		for _, piece := range pieces {
			require.True(t, utf8.ValidString(piece), "%q of %v", piece, ids)
		}
	}
}

// A character that is cut makes U+FFFD of all bytes in its row: those before it must not have been given out.
func TestCutCharactersOfByteFallback(t *testing.T) {
	tok, first, _ := fallback(t, spaces, byteFallback, fuse)
	ids, err := tok.Encode("𓀀𓁐", false)
	require.NoError(t, err)
	require.Len(t, ids, 8)
	require.Equal(t, first+0xF0, ids[0])
	for n := range ids {
		requireWhole(t, tok, ids[:n])
	}
	require.Equal(t, strings.Repeat("\uFFFD", 6), strings.Join(stream(t, tok, ids[:6], true), ""))
	require.Equal(t, "𓀀𓁐", strings.Join(stream(t, tok, ids, true), ""))
	a, err := tok.Encode("a", false)
	require.NoError(t, err)
	const eos = 1
	for _, between := range [][]int32{a, {eos}, {4}, {1 << 20}, {-1}, {}} { // a special token that is skipped ends no row
		requireWhole(t, tok, append(append(append([]int32{}, ids[:4]...), between...), ids[4:6]...))
	}
	// What follows makes a row certain, and it is given out then.
	pieces := stream(t, tok, append(append([]int32{}, ids[:4]...), a...), true)
	require.Equal(t, "𓀀a", pieces[4])
}

func TestStreamsOfRandomIDsAreTheWholeText(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := []rune("𓀀𓁐日本é\u0301 ab\n\t🏳️‍🌈語")
	for name, decoders := range map[string][]map[string]any{
		"gemma": {spaces, byteFallback, fuse}, "llama 2": {spaces, byteFallback, fuse, strip}, "not fused": {spaces, byteFallback}, "no fallback": {spaces, fuse},
	} {
		t.Run(name, func(t *testing.T) {
			tok, first, size := fallback(t, decoders...)
			for range 2000 {
				var ids []int32
				for range rng.IntN(6) {
					switch rng.IntN(4) {
					case 0: // any tokens
						ids = append(ids, rng.Int32N(size+3))
					case 1: // bytes
						for range rng.IntN(6) {
							ids = append(ids, first+rng.Int32N(256))
						}
					case 2: // words and special tokens
						ids = append(ids, first+256+rng.Int32N(size-first-256), rng.Int32N(first))
					case 3: // text, whole or cut
						more, err := tok.Encode(string(text[rng.IntN(len(text)):]), false)
						require.NoError(t, err)
						ids = append(ids, more[:rng.IntN(len(more)+1)]...)
					}
				}
				requireWhole(t, tok, ids)
			}
		})
	}
}

// The same with a vocabulary whose tokens are pieces of bytes.
func TestStreamsOfRandomIDsOfATrainedVocabulary(t *testing.T) {
	tok, rng := load(t), rand.New(rand.NewPCG(3, 4))
	for range 500 {
		ids := make([]int32, rng.IntN(20))
		for i := range ids {
			ids[i] = rng.Int32N(int32(tok.VocabSize()) + 2)
			if rng.IntN(2) == 0 {
				ids[i] = 6 + rng.Int32N(300)
			}
		}
		requireWhole(t, tok, ids)
	}
}
