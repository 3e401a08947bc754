package tokenizer

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// source is a folder that need not be a whole model.
func source(dir string) *modelfiles.Source { return &modelfiles.Source{Dir: dir} }

func load(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := Load(source(testenv.Model(t)))
	require.NoError(t, err)
	t.Cleanup(tok.Close)
	return tok
}

// mixedCorpus is 2,000 strings of every kind: held-out sentences, their pieces, other scripts, emoji,
// control characters, special tokens in the text, code, numbers and long runs.
func mixedCorpus(t testing.TB) []string {
	rng := rand.New(rand.NewPCG(3, 4))
	texts := testenv.Texts(t)
	extra := []string{
		"", " ", "  ", "\n", "\t\r\n", "a", "▁", "▁▁x", "<bos>", "<start_of_turn>user\nhi<end_of_turn>", "<0x41>",
		"日本語のテキスト", "Привет, мир", "مرحبا بالعالم", "שלום", "👍🏽👨‍👩‍👧‍👦🏳️‍🌈", "e\u0301 é", "\u0000\u0001\u007f", "\uFFFD",
		"ǅ ﬁ ½ ①", "func main() { fmt.Println(\"hi\") }", "1234567890.00 €", "\U0010FFFF", "नमस्ते दुनिया",
		strings.Repeat("a", 500), strings.Repeat("ß ", 200), strings.Repeat("\n", 50),
	}
	corpus := append(append([]string{}, texts...), extra...)
	for len(corpus) < 2000 {
		runes := []rune(texts[rng.IntN(len(texts))])
		from := rng.IntN(len(runes))
		piece := string(runes[from : from+rng.IntN(len(runes)-from)+1])
		switch rng.IntN(4) {
		case 0:
			piece += extra[rng.IntN(len(extra))]
		case 1:
			piece = extra[rng.IntN(len(extra))] + piece
		case 2:
			random := make([]rune, rng.IntN(12))
			for i := range random {
				for random[i] = rune(rng.IntN(0x11000)); random[i] >= 0xD800 && random[i] < 0xE000; {
					random[i] = rune(rng.IntN(0x11000))
				}
			}
			piece += string(random)
		}
		corpus = append(corpus, piece)
	}
	return corpus
}

var chats = []any{
	[]map[string]any{{"role": "user", "content": "Hi"}},
	[]map[string]any{{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi\n"}},
	[]map[string]any{{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}, {"role": "user", "content": "<c> & \"d\""}},
	[]map[string]any{{"role": "user", "content": []map[string]any{{"type": "text", "text": " part "}, {"type": "image"}, {"type": "text", "text": "two"}}}},
	[]map[string]any{{"role": "assistant", "content": "wrong way round"}},
	[]map[string]any{{"role": "user", "content": "🏳️‍🌈 \u2028"}},
}

func TestIdsAndTextAndChatsAreThoseOfPython(t *testing.T) {
	tok := load(t)
	corpus := mixedCorpus(t)
	require.Len(t, corpus, 2000)
	var want struct {
		IDs      [][]int32 `json:"ids"`
		Decoded  []string  `json:"decoded"`
		Rendered []string  `json:"rendered"`
	}
	testenv.RunPython(t, "tokens.py", map[string]any{"model": testenv.Model(t), "texts": corpus, "chats": chats}, &want)
	for i, text := range corpus {
		ids, err := tok.Encode(text, true)
		require.NoError(t, err)
		require.Equal(t, want.IDs[i], ids, "%q", text)
		decoded, err := tok.Decode(ids, true)
		require.NoError(t, err)
		require.Equal(t, want.Decoded[i], decoded, "%q", text)
	}
	template, err := LoadTemplate(source(testenv.Model(t)))
	require.NoError(t, err)
	defer template.Close()
	for i, chat := range chats {
		text, err := template.Render(t.Context(), chat, true, nil)
		if message, failed := strings.CutPrefix(want.Rendered[i], "error: "); failed {
			require.ErrorContains(t, err, message)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want.Rendered[i], text)
	}
}

func TestStreamedPiecesAreTheWholeText(t *testing.T) {
	tok := load(t)
	for _, text := range mixedCorpus(t) {
		ids, err := tok.Encode(text, false)
		require.NoError(t, err)
		whole, err := tok.Decode(ids, true)
		require.NoError(t, err)
		var got strings.Builder
		d := tok.NewStreamDecoder(true)
		for i, id := range ids {
			piece, err := d.Add(id)
			require.NoError(t, err)
			if i < len(ids)-1 && !strings.Contains(text, "\uFFFD") {
				require.NotContains(t, piece, "\uFFFD", "half a character was given out")
			}
			got.WriteString(piece)
		}
		rest, err := d.Finish()
		require.NoError(t, err)
		require.Equal(t, whole, got.String()+rest, "%q", text)
	}
}

func TestStreamEndsInTheMiddleOfACharacter(t *testing.T) {
	tok := load(t)
	ids, err := tok.Encode("x语", false)
	require.NoError(t, err)
	d := tok.NewStreamDecoder(true)
	var got string
	for _, id := range ids[:len(ids)-1] {
		piece, err := d.Add(id)
		require.NoError(t, err)
		got += piece
	}
	require.Equal(t, "x", got)
	rest, err := d.Finish()
	require.NoError(t, err)
	require.Contains(t, rest, "\uFFFD")
}

func TestBadInputIsAnError(t *testing.T) {
	tok := load(t)
	_, err := tok.Encode("a\xc3", false)
	require.ErrorIs(t, err, ErrInvalidUTF8)
	_, err = New([]byte(`{"model":{"type":"BPE"}}`))
	require.Error(t, err)
	_, err = New(nil)
	require.Error(t, err)
	_, err = Load(source(t.TempDir()))
	require.ErrorIs(t, err, os.ErrNotExist)
	text, err := tok.Decode([]int32{1 << 30, -1}, false)
	require.NoError(t, err)
	require.Empty(t, text, "ids outside the vocabulary give no text")
}

func TestTokenIDs(t *testing.T) {
	tok := load(t)
	id, ok := tok.TokenID("<end_of_turn>")
	require.True(t, ok)
	require.EqualValues(t, 5, id)
	_, ok = tok.TokenID("no such token")
	require.False(t, ok)
	require.Greater(t, tok.VocabSize(), 4000)
}

func TestClosedTokenizersSaySo(t *testing.T) {
	tok, err := Load(source(testenv.Model(t)))
	require.NoError(t, err)
	tok.Close()
	tok.Close()
	_, err = tok.Encode("x", false)
	require.ErrorIs(t, err, ErrClosed)
	_, err = tok.Decode([]int32{1}, false)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, tok.VocabSize())
}

func TestOneTokenizerServesManyGoroutines(t *testing.T) {
	tok := load(t)
	want, err := tok.Encode("Where can I find the order number?", true)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				got, err := tok.Encode("Where can I find the order number?", true)
				if err != nil || len(got) != len(want) {
					t.Errorf("%v %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTemplates(t *testing.T) {
	render := func(source string, messages any, extra map[string]any) string {
		template, err := NewTemplate(source, map[string]string{"bos_token": "<s>"})
		require.NoError(t, err)
		defer template.Close()
		text, err := template.Render(t.Context(), messages, false, extra)
		require.NoError(t, err)
		return text
	}
	none := []any{}
	require.Equal(t, "<s>|False", render("{{ bos_token }}|{{ add_generation_prompt }}", none, nil))
	// tojson prints as Python does: separators, floats, no HTML escapes, and the order of a struct's fields.
	type tool struct {
		Name string  `json:"name"`
		A    float64 `json:"a"`
		B    []any   `json:"b"`
	}
	require.Equal(t, `{"name": "<x> é", "a": 1e-07, "b": [1, 2.5, null, true]}`,
		render("{{ tools[0] | tojson }}", none, map[string]any{"tools": []tool{{"<x> é", 1e-7, []any{1, 2.5, nil, true}}}}))
	require.Equal(t, "A b", render("{{ 'a B'.capitalize() }}", none, nil), "Python's string methods")
	require.Equal(t, "1", render("{% for x in [1,2] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", none, nil))
	require.Len(t, render("{{ strftime_now('%Y') }}", none, nil), 4)
}

func TestTemplateErrors(t *testing.T) {
	_, err := NewTemplate("{% if %}", nil)
	require.ErrorContains(t, err, "chat template")
	template, err := NewTemplate("{{ raise_exception('not like this') }}", nil)
	require.NoError(t, err)
	_, err = template.Render(t.Context(), []any{}, false, nil)
	require.ErrorContains(t, err, "not like this")
	_, err = template.Render(t.Context(), func() {}, false, nil)
	require.Error(t, err)
	template.Close()
	template.Close()
	_, err = template.Render(t.Context(), []any{}, false, nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestWhereTemplatesComeFrom(t *testing.T) {
	write := func(files map[string]string) string {
		dir := t.TempDir()
		for name, text := range files {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
		return dir
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a string":     {map[string]string{"tokenizer_config.json": `{"chat_template": "S{{ eos_token }}", "eos_token": {"content": "E"}}`}, "SE"},
		"a list":       {map[string]string{"tokenizer_config.json": `{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]}`}, "D"},
		"a file":       {map[string]string{"chat_template.jinja": "F{{ bos_token }}", "tokenizer_config.json": `{"bos_token": "B", "chat_template": "S"}`}, "FB"},
		"a file alone": {map[string]string{"chat_template.jinja": "F"}, "F"},
		"nothing":      {nil, ""},
		"null":         {map[string]string{"tokenizer_config.json": `{"chat_template": null}`}, ""},
		"no default":   {map[string]string{"tokenizer_config.json": `{"chat_template": [{"name": "rag", "template": "R"}]}`}, ""},
		"an object":    {map[string]string{"tokenizer_config.json": `{"chat_template": {"rag": "R", "default": "D"}}`}, "D"},
	} {
		template, err := LoadTemplate(source(write(c.files)))
		if c.want == "" {
			require.ErrorIs(t, err, ErrNoTemplate, name)
			continue
		}
		require.NoError(t, err, name)
		text, err := template.Render(t.Context(), []any{}, false, nil)
		require.NoError(t, err, name)
		require.Equal(t, c.want, text, name)
		template.Close()
	}
	for _, other := range []string{"3", "true", `["x"]`, `[{"name": "default"}]`, `[{"template": "x"}]`, `{"default": {"a": 1}}`} {
		from := source(write(map[string]string{"config.json": "{}", "tokenizer_config.json": `{"chat_template": ` + other + "}"}))
		_, err := LoadTemplate(from)
		require.ErrorIs(t, err, modelfiles.ErrTemplate, other)
		has, err := from.HasTemplate()
		require.NoError(t, err, "it costs chats and nothing else")
		require.False(t, has, other)
		text, err := modelfiles.AllTemplates(from.Dir)
		require.NoError(t, err)
		require.Empty(t, text)
	}
	_, err := LoadTemplate(source(write(map[string]string{"tokenizer_config.json": "{"})))
	require.ErrorContains(t, err, "tokenizer_config.json")
}

func FuzzDecodeNeverFails(f *testing.F) {
	tok := load(f)
	f.Add([]byte{1, 2, 3, 200, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := tok.NewStreamDecoder(true)
		for i := 0; i+1 < len(b); i += 2 {
			if _, err := d.Add(int32(b[i])<<5 | int32(b[i+1])&31); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Finish(); err != nil {
			t.Fatal(err)
		}
	})
}
