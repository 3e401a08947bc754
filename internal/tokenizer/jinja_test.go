package tokenizer

import (
	"strings"
	"testing"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// sources are templates with what real ones use beyond the basics of Jinja. x is a text, n a number, l a list, d a dict.
var sources = []string{
	// Tags of transformers' own, with every control of white space.
	"{% for m in messages %}{% if m.role == 'assistant' %}\n  {% generation %}\n{{ m.content }}{% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}",
	"a {%- generation -%} b {%- endgeneration -%} c", "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}",
	// JSON.
	"{{ d | tojson(separators=(',', ':')) }}", "{{ d | tojson(indent=2) }}", "{{ d | tojson(indent=2, separators=(',', ' = ')) }}", "{{ d | tojson(sort_keys=true) }}",
	"{{ 'é' | tojson }}{{ 'é' | tojson(ensure_ascii=true) }}", "{{ d | tojson(indent='\t') }}", "{{ [] | tojson(indent=1) }}{{ {} | tojson }}",
	// Formatting.
	"{{ '%s' % x }}", "{{ '%s and %r' % (x, x) }}", "{{ '%05.1f|%-6d|%+d|%x|%X|%#o|%e|%g|%%' % (1.25, n, n, 255, 255, 8, 12345.678, 0.0001) }}",
	"{{ '%(a)s-%(b)s' % {'a': 1, 'b': 'z'} }}", "{{ n % 3 }}{{ -n % 3 }}{{ n * 2 % 4 }}{{ 7.5 % 2 }}", "{% if n % 2 == 1 %}odd{% endif %}", "{{ ('%s' % x) ~ '!' }}",
	"{{ '%s' % (x | upper) }}", "{{ '{} {:>5}'.format(x, n) }}", "{{ '%s' | format(x) }}", "{{ '%3d|%-3d|% d' % (n, n, n) }}", "{{ '%s' % none }}{{ '%s' % true }}{{ '%s' % d }}", "{{ '%.2s' % x }}",
	// Printed values.
	"{{ l }}", "{{ d }}", "{{ [none, true, 1.0, 'a\\'b', \"q\\\"\", 'n\\n'] }}", "{{ none }}{{ true }}{{ 1.5 }}{{ 1e20 }}{{ 3.0 }}{{ 1e-7 }}", "{{ l ~ d ~ none ~ 1.0 }}",
	"{{ l | string }}{{ d | string | length }}", "{{ [1, 'a', none] | join('-') }}", "{{ {'a': [1, {'b': none}]} }}", "{{ missing }}|{{ l | join }}", "{{ 'a' ~ n ~ 1 }}",
	// Truth and tests.
	"{{ '' and x }}|{{ 0 and x }}|{{ 'a' and 'b' }}|{{ '' or 'c' }}|{{ none and 1 }}|{{ false and 1 }}", "{{ x and '' }}|{{ '' and 'x' }}",
	"{{ 'a' is sequence }}{{ l is sequence }}{{ d is sequence }}{{ 1 is sequence }}", "{{ 'a' is iterable }}{{ d is mapping }}{{ x is string }}{{ n is number }}{{ none is none }}",
	"{{ missing is defined }}{{ missing is undefined }}{{ true is boolean }}{{ n is integer }}{{ 1.0 is float }}", "{{ x is not string }}{{ 'a' in x }}{{ 'k' in d }}{{ 3 in l }}",
	// Methods of texts.
	"{{ x.replace('a', 'b', 1) }}{{ x.replace('a', '') }}", "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a b  c '.rsplit(none, 1) }}{{ ' a  b c'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ ' a  b c '.split(none, 1) }}",
	"{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.json'.removesuffix('.json') }}{{ 'x'.removeprefix('y') }}", "{{ 'a=b=c'.partition('=')[2] }}{{ 'a=b=c'.rpartition('=')[0] }}{{ 'a'.partition('=')[0] }}",
	"{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ '+7'.zfill(2) }}", "{{ x.index('n') }}{{ l.index(2) }}{{ x.find('z') }}{{ x.rfind('a') }}{{ x.find('a', 2) }}", "{{ x.count('a') }}{{ 'aa'.count('') }}",
	"{{ 'ab'.ljust(5, '.') }}{{ 'ab'.rjust(5) }}{{ 'ab'.center(5, '*') }}{{ 'abc'.center(6, '*') }}", "{{ 'aB cd'.swapcase() }}{{ \"it's a dOG\".title() }}{{ 'hELLO wORLD'.capitalize() }}",
	"{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}", "{{ '  a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abc'.lstrip('ba') }}|{{ '\\n a\\n'.rstrip() }}|",
	"{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.startswith(('x', 'y')) }}", "{{ 'Abc'.isupper() }}{{ 'ABC1'.isupper() }}{{ ''.isalpha() }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ '1'.islower() }}{{ 'A b'.istitle() }}",
	"{{ ', '.join(['a', 'b']) }}", "{{ x[::-1] }}{{ x[1:3] }}{{ l[-1] }}{{ l[:2] }}{{ x.upper() }}{{ x.lower() }}",
	// Dicts.
	"{{ d.get('k') }}{{ d.get('z', 'no') }}{{ d.get('z') }}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{{ d.keys() | list }}{{ d.values() | list }}", "{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in d | items %}{{ k }}{% endfor %}",
	// Filters.
	"{{ 'one two, three' | wordcount }}", "{{ 'a long text that is cut somewhere' | truncate(12) }}|{{ 'a long text that is cut' | truncate(12, true, '!', 0) }}|{{ 'short' | truncate(10) }}",
	"{{ 'x' | center(5) }}|{{ 'xy' | center(7) }}|", "{{ x | replace('a', 'b', 1) }}{{ 'aaa' | replace('a', 'b') }}", "{{ 'hello wORLD-wide (web)' | title }}{{ 'hELLO' | capitalize }}", "{{ '3' | int + 1 }}{{ 'x' | int }}{{ 'x' | int(5) }}{{ 3.9 | int }}{{ '2.5' | float }}{{ 'y' | float }}",
	"{{ l | map('string') | join('+') }}{{ messages | map(attribute='role') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='content') | first }}",
	"{{ l | first }}{{ l | last }}{{ l | length }}{{ l | sum }}{{ l | max }}{{ l | reverse | list }}{{ [3, 1, 2] | sort }}{{ [1, 1, 2] | unique | list }}", "{{ missing | default('d') }}{{ '' | default('e', true) }}", "{{ '  a  ' | trim }}|{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}",
	"{{ l | trim }}{{ none | upper }}{{ d | trim('{}') }}", "{{ messages | join(',', attribute='role') }}", "{{ 'A' | lower }}{{ 'a' | upper }}{{ 2.567 | round(1) }}{{ -2 | abs }}", "{{ l | batch(2) | list }}", "{{ x | list }}",
	// Statements.
	"{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}",
	"{% macro show(m, end='.') %}{{ m.role }}{{ end }}{% endmacro %}{% for m in messages %}{{ show(m) }}{{ show(m, end='!') }}{% endfor %}", "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.previtem.role if loop.previtem is defined }}{% endfor %}",
	"{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% set t %}  block {{ x }}{% endset %}{{ t | trim }}", "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}", "{% for i in [] %}{% else %}none{% endfor %}",
	"{{ x if false }}|{{ x if n > 1 else 'other' }}", "{% raw %}{{ a % b }}{% endraw %}{# x % y #}", "{{ messages[0]['content'] }}{{ messages[-1].content }}{{ messages[0]['missing'] }}", "{{ dict(a=1, b='c') }}", "  {%- if true %}\n  yes\n  {%- endif %}\n", "{{ 5 // 2 }}{{ 5 / 2 }}{{ 2 ** 3 }}{{ 'ab' * 2 }}", "{{ 1 < 2 < 3 }}{{ not x }}",
}

func TestJinjaIsThatOfTransformers(t *testing.T) {
	messages := []map[string]any{{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}}
	more := map[string]any{"x": "banana", "n": 7, "l": []any{1, 2, 3}, "d": map[string]any{"k": "v", "q": []any{1.5, nil, false}}}
	var requests []any
	for _, source := range sources {
		requests = append(requests, []any{source, messages, more})
	}
	var want []string
	testenv.RunPython(t, "templates.py", requests, &want)
	for i, source := range sources {
		if strings.HasPrefix(want[i], "error: ") {
			t.Errorf("%s: the test itself is wrong: %s", source, want[i])
			continue
		}
		template, err := NewTemplate(source, map[string]string{"bos_token": "<s>"})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := template.Render(t.Context(), messages, false, more)
		template.Close()
		if err != nil || got != want[i] {
			t.Errorf("%s\n got %q, %v\nwant %q", source, got, err, want[i])
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, source := range sources {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) > 500 || strings.Contains(source, "range") {
			return // which may well run for ever
		}
		if template, err := NewTemplate(source, nil); err == nil {
			_, _ = template.Render(t.Context(), []any{}, false, nil)
			template.Close()
		}
	})
}
