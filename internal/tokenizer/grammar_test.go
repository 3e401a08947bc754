package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func vocabulary(t testing.TB) (*Tokenizer, *Vocabulary) {
	tok := load(t)
	v, err := tok.NewVocabulary(tok.VocabSize(), []int32{1})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	return tok, v
}

// walk takes allowed tokens, the one that pick says among them, until an end token may come.
func walk(t testing.TB, tok *Tokenizer, m *Matcher, pick func(n int) int) string {
	var ids []int32
	for range 400 {
		allowed, err := m.Allowed()
		require.NoError(t, err)
		if allowed[1] {
			text, err := tok.Decode(ids, false)
			require.NoError(t, err)
			return text
		}
		var choices []int32
		for id, ok := range allowed {
			if ok {
				choices = append(choices, int32(id))
			}
		}
		require.NotEmpty(t, choices)
		id := choices[pick(len(choices))]
		require.NoError(t, m.Accept(id))
		ids = append(ids, id)
	}
	t.Fatal("the text does not end")
	return ""
}

func TestAnyWalkThroughAGrammarMatchesIt(t *testing.T) {
	tok, v := vocabulary(t)
	state := uint32(1)
	random := func(n int) int {
		state = state*1664525 + 1013904223
		return int(state>>8) % n
	}
	pattern := `(äö|日本|[a-c ]{2,5}){3}\n\t"[xyz]"`
	for range 30 {
		m, err := v.NewMatcher("regex", pattern)
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile("^"+pattern+"$"), walk(t, tok, m, random))
		m.Close()
		m, err = v.NewMatcher("json_schema", `{"type": "array", "minItems": 1, "maxItems": 3, "items": {"enum": ["ü\"x", 1, null, {"k": false}]}}`)
		require.NoError(t, err)
		var list []any
		text := walk(t, tok, m, random)
		require.NoError(t, json.Unmarshal([]byte(text), &list), text)
		require.NotContains(t, text, " ")
		m.Close()
	}
}

func TestATokenThatMayNotComeIsAnError(t *testing.T) {
	tok, v := vocabulary(t)
	m, err := v.NewMatcher("choices", `["left", "right"]`)
	require.NoError(t, err)
	defer m.Close()
	ids, err := tok.Encode("up", false)
	require.NoError(t, err)
	require.Error(t, m.Accept(ids[0]))
	_, err = m.Allowed()
	require.Error(t, err, "the text cannot go on")
}

func TestAClosedVocabularyMakesNoMatchers(t *testing.T) {
	tok, v := vocabulary(t)
	m, err := v.NewMatcher("regex", "abc")
	require.NoError(t, err)
	defer m.Close()
	v.Close()
	v.Close()
	_, err = v.NewMatcher("regex", "abc")
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, "abc", walk(t, tok, m, func(int) int { return 0 }), "a matcher outlives it")
	_, err = tok.NewVocabulary(10, nil)
	require.Error(t, err, "no end token")
}

// A limit of the library is told as what it is: the text could go on.
func TestAGrammarThatBecomesTooComplexSaysSo(t *testing.T) {
	_, v := vocabulary(t)
	var rules, names []string
	for i := range 2100 { // more than the library follows at once
		names = append(names, fmt.Sprintf("s%d", i))
		rules = append(rules, fmt.Sprintf("s%d: \"a\" s%d | \"b\"", i, i))
	}
	m, err := v.NewMatcher("lark", "start: \"x\" many\nmany: "+strings.Join(names, " | ")+"\n"+strings.Join(rules, "\n"))
	require.NoError(t, err)
	defer m.Close()
	allowed, err := m.Allowed()
	require.NoError(t, err)
	if err = m.Accept(int32(slices.Index(allowed, true))); err == nil {
		_, err = m.Allowed()
	}
	require.ErrorContains(t, err, "items")
	require.NotContains(t, err.Error(), "<state>", "nor of what only the library's authors can read")

	m, err = v.NewMatcher("lark", "start: \"a\" b\nb: b \"x\"")
	require.NoError(t, err)
	defer m.Close()
	allowed, err = m.Allowed()
	require.NoError(t, err)
	require.NoError(t, m.Accept(int32(slices.Index(allowed, true))))
	allowed, err = m.Allowed()
	require.NoError(t, err)
	require.NotContains(t, allowed, true)
}

// Whatever a caller gives as a grammar, it ends in a matcher or an error.
func FuzzGrammar(f *testing.F) {
	_, v := vocabulary(f)
	f.Add("regex", "(a|b)*c{2,3}")
	f.Add("json_schema", `{"type": "object", "properties": {"a": {"$ref": "#"}}}`)
	f.Add("lark", `start: "a" start | "b"`)
	f.Add("choices", `["a"]`)
	f.Add("regex", strings.Repeat("(", 300))
	f.Add("json_schema", strings.Repeat(`{"not":`, 100))
	f.Fuzz(func(t *testing.T, kind, grammar string) {
		if len(grammar) > 2000 {
			return
		}
		m, err := v.NewMatcher(kind, grammar)
		if err != nil {
			return
		}
		defer m.Close()
		if allowed, err := m.Allowed(); err == nil {
			for id, ok := range allowed {
				if ok {
					_ = m.Accept(int32(id))
					_, _ = m.Allowed()
					break
				}
			}
		}
	})
}

// Choices are texts, whatever is in them; the grammar's own syntax takes no control characters.
func TestChoicesMayHoldAnyCharacter(t *testing.T) {
	tok, v := vocabulary(t)
	for _, choice := range []string{"\x7f", "a\x00b", "\u0085", "\"\\", "\n\t", "/x/", "é\u2028"} {
		list, err := json.Marshal([]string{choice})
		require.NoError(t, err)
		m, err := v.NewMatcher("choices", string(list))
		require.NoError(t, err, "%q", choice)
		require.Equal(t, choice, walk(t, tok, m, func(int) int { return 0 }))
		m.Close()
	}
}

func TestGrammarsOfEveryKindAreRead(t *testing.T) {
	_, v := vocabulary(t)
	for _, c := range []struct {
		kind, grammar string
		ok            bool
	}{
		{"json_schema", `{"type": "object"}`, true},
		{"json_schema", `{`, false},
		{"choices", `["a", "b \" c"]`, true},
		{"choices", `{}`, false},
		{"poem", ``, false},
	} {
		m, err := v.NewMatcher(c.kind, c.grammar)
		if !c.ok {
			require.Error(t, err, "%s %s", c.kind, c.grammar)
			continue
		}
		require.NoError(t, err, "%s %s", c.kind, c.grammar)
		m.Close()
	}
}
