package tokenizer

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// A template is a program of whoever made the checkpoint.
func TestTemplatesThatLoopEnd(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"nested loops":  {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "it loops"},
		"macros":        {"{% macro f(n) %}{% for i in range(99) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}", ""},
		"indent":        {"{{ [1]|tojson(indent=99999999999) }}", "indent is more than"},
		"other indent":  {"{{ 'a'|indent(99999999999) }}", "indent: more than"},
		"concat":        {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"plus":          {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = '' + (ns.s + ns.s) %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"list":          {"{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"join":          {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"str.join":      {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"replace":       {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}{{ ns.s }}", `without end|took more than`},
		"captures":      {"{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}", `without end|took more than`},
		"output":        {"{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}", `without end|took more than`},
		"width":         {"{{ '{:>9999999999}'.format(1) }}", "width"},
		"rows":          {"{{ [1]|batch(9999999999, 0)|list }}", "batch: more than"},
		"columns":       {"{{ [1]|slice(9999999999)|list }}", "slice: more than"},
		"text":          {"{% for i in range(99999) %}" + strings.Repeat("text", 25000) + "{% endfor %}", `without end|took more than`},
		"kept text":     {"{% set x %}{% for i in range(99999) %}" + strings.Repeat("text", 25000) + "{% endfor %}{% endset %}", `without end|took more than`},
		"macro text":    {"{% macro f() %}" + strings.Repeat("text", 25000) + "{% endmacro %}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [f()] + ns.l[:9999] %}{% endfor %}", `without end|took more than`},
		"kept lists":    {"{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [range(99999)|list] + ns.l[:9999] %}{% endfor %}", `without end|took more than`},
		"repeated":      {"{{ ('x' * 1000000) * 1000000 }}", "without end"},
		"list times":    {"{{ [1] * 1000000000 }}", "without end"},
		"widths":        {"{{ ('%(a)1000000d' * 9000) % {'a': 1} }}", `without end|took more than`},
		"formats":       {"{{ ('{0:>1000000}' * 9000).format(1) }}", `without end|took more than`},
		"tabs":          {"{{ ('\\t' * 9000000).expandtabs(1024) }}", `without end|took more than`},
		"characters":    {"{{ ('x' * 30000000)|list|length }}", `without end|took more than`},
		"split":         {"{{ ('x' * 30000000).split('x')|length }}", `without end|took more than`},
		"joined":        {"{{ (['x' * 30000000] * 100000)|join }}", `without end|took more than`},
		"indented":      {"{{ ('\\n' * 30000000)|indent(900, true, true) }}", `without end|took more than`},
		"json":          {"{% set ns = namespace(l=[]) %}{% for i in range(190) %}{% set ns.l = [ns.l, range(9999)|list] %}{% endfor %}{{ ns.l|tojson(indent=100) }}", `without end|took more than`},
		"power":         {"{{ 2 ** 99999999999 }}", "127 bits"},
		"printed":       {strings.Repeat("{% set x = [x, x] %}", 60) + "{{ x }}", `without end|took more than`},
		"as json":       {"{% set x = 1 %}" + strings.Repeat("{% set x = [x, x] %}", 60) + "{{ x|tojson }}", `without end|took more than`},
		"kept texts":    {"{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['x' * 1000000] %}{% endfor %}", "fills the memory|took more than"},
		"mapped texts":  {"{% set x = range(99999)|map('string')|map('center', 100000)|list %}", "fills the memory|took more than"},
		"kept captures": {"{% macro f() %}" + strings.Repeat("text", 25000) + "{% endmacro %}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [f()] + ns.l %}{% endfor %}", "fills the memory|took more than"},
		"a long prompt": {"{% set s = 'x' * 30000000 %}{{ s }}{{ s }}", "without end|took more than"},
		"unique texts":  {"{% set s = 'x' * 30000000 %}{{ [(s,) * 10000]|unique|list }}", "without end|fills the memory"},
		"keys of texts": {"{% set s = 'x' * 30000000 %}{{ {(s,) * 10000: 1}|length }}", "without end|fills the memory"},
		"changed texts": {"{% set s = 'x' * 30000000 %}{% for i in [1] %}{{ loop.changed([s] * 90000) }}{% endfor %}", "without end|fills the memory"},
		"sorted texts":  {"{% set s = 'X' * 1000000 %}{{ ([s] * 20000)|sort|length }}", "fills the memory|took more than"},
		// What is a key, and what minijinja would hash and compare in one step.
		"a list as key":     {strings.Repeat("{% set l = [l, l] %}", 60) + "{{ {l: 1}|length }}", "unhashable type: 'list'"},
		"a dict as key":     {"{{ {{'b': 2}: 1} }}", "unhashable type: 'dict'"},
		"a list in a dict":  {"{{ [1] in {'a': 1} }}", "unhashable type: 'list'"},
		"a list of no dict": {"{{ {'a': 1}.get([1]) }}", "unhashable type: 'list'"},
		"unique lists":      {"{{ [[1], [1]]|unique|list }}", "unhashable type: 'list'"},
		"a key of dict":     {"{{ dict([([1], 2)]) }}", "unhashable type: 'list'"},
		"a key without end": {strings.Repeat("{% set l = (l, l) %}", 60) + "{{ {l: 1}|length }}", "a key of more than"},
		"an index":          {strings.Repeat("{% set l = (l, l) %}", 60) + "{{ {'a': 1}[l] }}", "a key of more than"},
		"an attribute":      {strings.Repeat("{% set l = (l, l) %}", 60) + "{{ [{'a': 1}]|map(attribute=l)|list }}", "a key of more than"},
		"unique":            {strings.Repeat("{% set l = (l, l) %}", 60) + "{{ [l, l]|unique|list }}", "a key of more than"},
		"changed":           {strings.Repeat("{% set l = [l, l] %}", 60) + "{% for i in [1, 2] %}{{ loop.changed(l) }}{% endfor %}", "a value with more than"},
		// A stack that overflows would end the process.
		"nested":            {"{% set ns = namespace(l=[]) %}{% for j in range(9) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{% endfor %}", "nested"},
		"nested dicts":      {"{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l} %}{% endfor %}{{ {ns.l: 1}|length }}", "nested"},
		"nested by filters": {"{% set x = [1] %}{{ {x" + strings.Repeat("|batch(1)", 700) + ": 1}|length }}", "nested"},
		"a long template":   {"{% set x = [1] %}" + strings.Repeat("{% set x = [x] %}", 60000) + "{{ {x: 1}|length }}", "nested"},
		"itself":            {"{% set ns = namespace() %}{% set ns.x = ns %}{{ [ns, ns]|sort }}{{ ns }}", "a namespace keeps"},
		"in itself":         {"{% set ns = namespace() %}{% set ns.x = {'a': [ns]} %}{{ {ns.x: 1} }}", "a namespace keeps"},
		"a macro of macros": {"{% set ns = namespace() %}{% for i in range(99999) %}{% set p = ns.m %}{% macro f() %}{{ p }}{% endmacro %}{% set ns.m = f %}{% endfor %}", "a namespace keeps"},
		"printed deep":      {strings.Repeat("{% set x = [x] %}", 1000) + "{{ x }}", "nested"},
	} {
		if name == "kept lists" && !testenv.Slow() { // it ends when its ten seconds are over
			continue
		}
		t.Run(name, func(t *testing.T) {
			template, err := NewTemplate(c.source, nil)
			require.NoError(t, err)
			defer template.Close()
			start := time.Now()
			_, err = template.Render(t.Context(), []any{}, true, nil)
			require.Error(t, err)
			require.Regexp(t, c.want, err.Error())            // a slow machine has no time to fill its memory
			require.Less(t, time.Since(start), 2*time.Minute) // the loops would take hours
		})
	}
	// A long chat is far from the limit.
	template, err := NewTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% if loop.last %}!{% endif %}{% endfor %}", nil)
	require.NoError(t, err)
	defer template.Close()
	chat := make([]map[string]string, 10000)
	for i := range chat {
		chat[i] = map[string]string{"role": "user", "content": "x"}
	}
	text, err := template.Render(t.Context(), chat, true, nil)
	require.NoError(t, err)
	require.Len(t, text, 70001)
}

// Instructions are counted, but one can be much work. Such a rendering ends with its caller; it has a time of its own, too.
func TestARenderingEndsWithItsCaller(t *testing.T) {
	loops := map[string]string{
		"sums":          "{% for i in range(99999) %}{% set x = range(99999)|sum %}{% endfor %}",
		"sorting":       "{% set l = range(99999)|list %}{% for i in range(99999) %}{% set x = l|reverse|sort|list %}{% endfor %}",
		"sorting texts": "{% set s = 'x' * 1000000 %}{% set l = [s ~ 1, s ~ 2] * 20000 %}{{ l|sort(case_sensitive=true)|list|length }}",
		"sorting lists": strings.Repeat("{% set l = [l, l] %}", 60) + strings.Repeat("{% set k = [k, k] %}", 60) + "{{ [k, l]|sort|length }}",
		"the greatest":  strings.Repeat("{% set l = [l, l] %}", 60) + strings.Repeat("{% set k = [k, k] %}", 60) + "{{ [k, l]|max|length }}",
		"methods":       "{% set s = 'ab' * 50000 %}{% for i in range(99999) %}{% set x = s.upper() %}{% endfor %}",
	}
	for name, source := range loops {
		template, err := NewTemplate(source, nil)
		require.NoError(t, err)
		for range 2 * leftMost {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err = template.Render(ctx, []any{}, true, nil)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.Eventually(t, func() bool {
				template.mu.Lock()
				defer template.mu.Unlock()
				return template.renders == 0 && template.left == 0
			}, time.Minute, time.Millisecond, name) // the loops would take minutes
		}
		if testenv.Slow() {
			_, err = template.Render(t.Context(), []any{}, true, nil)
			require.ErrorContains(t, err, "took more than 10 s", name)
		}
		template.Close()
		require.Nil(t, template.t)
	}
}

// What cannot be ended is left alone: nobody waits for it, and not many of them go on.
func TestARenderingThatDoesNotEndIsLeft(t *testing.T) {
	template, err := NewTemplate("{{ messages|length }}", nil)
	require.NoError(t, err)
	var left []*rendering
	for range leftMost {
		r, err := template.begin() // one that does not look at its bounds
		require.NoError(t, err)
		template.leave(r)
		require.NotZero(t, r.stop.Load())
		left = append(left, r)
	}
	_, err = template.Render(t.Context(), []any{}, true, nil)
	require.ErrorIs(t, err, ErrTemplateBusy)
	template.end(left[0])
	_, err = template.Render(t.Context(), []any{}, true, nil)
	require.NoError(t, err)
	template.Close()
	_, err = template.Render(t.Context(), []any{}, true, nil)
	require.ErrorIs(t, err, ErrClosed)
	require.NotNil(t, template.t)
	template.end(left[1])
	require.Nil(t, template.t, "the last one frees it")
}

// A set of characters is looked at once, and not for each letter of the text.
func TestLongSetsOfCharacters(t *testing.T) {
	for _, source := range []string{"{{ (x * 1000000).strip(y * 1000000 ~ x) ~ '!' }}", "{{ (x * 1000000)|trim(y * 1000000 ~ x) ~ '!' }}"} {
		template, err := NewTemplate(source, nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it would take hours
		text, err := template.Render(ctx, []any{}, true, map[string]any{"x": "a", "y": "b"})
		cancel()
		require.NoError(t, err)
		require.Equal(t, "!", text)
		template.Close()
	}
}

// Chains that overflow a stack when a template is compiled.
func TestTemplatesOfLongChainsAreRefused(t *testing.T) {
	for name, source := range map[string]string{
		"filters":    "{{ 'x'" + strings.Repeat("|upper", 60000) + "}}",
		"attributes": "{{ messages" + strings.Repeat(".x", 60000) + "}}",
		"calls":      "{{ messages" + strings.Repeat("()", 60000) + "}}",
		"branches":   "{% if x %}" + strings.Repeat("{% elif y %}", 60000) + "{% endif %}",
		"operands":   "{{ x" + strings.Repeat(" or y", 60000) + "}}",
		"endless":    "{{ x" + strings.Repeat(".x", 60000) + "( }}",
		"unknown":    "{{ $ x" + strings.Repeat(" or y", 60000) + "}}",
	} {
		_, err := NewTemplate(source, nil)
		require.Error(t, err, name)
		require.Regexp(t, "allowed|does not end|does not know", err.Error(), name)
	}
	_, err := NewTemplate("{{ messages"+strings.Repeat("()", 1990)+"}}", nil) // each is in the brackets of the next one
	require.ErrorContains(t, err, "template line 1")
	// What is allowed overflows nothing.
	for name, source := range map[string]string{
		"filters":    "{{ 'x'" + strings.Repeat("|upper", 1990) + "}}",
		"attributes": "{{ messages" + strings.Repeat(".x", 1990) + "}}",
		"branches":   "{% if x %}" + strings.Repeat("{% elif y %}", 1000) + "{% endif %}",
		"operands":   "{{ x" + strings.Repeat(" or y", 1990) + "}}",
		"sums":       "{{ 1" + strings.Repeat(" + 1", 500) + "}}",
		"variables":  "{% set x = [1] %}" + strings.Repeat("{% set x=[x] %}", 4300) + "{{ {x: 1}|length }}",
	} {
		template, err := NewTemplate(source, nil)
		require.NoError(t, err, name)
		_, _ = template.Render(t.Context(), []any{}, true, nil)
		template.Close()
	}
}
