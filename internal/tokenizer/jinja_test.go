package tokenizer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
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

// harder are templates in which Python's values differ from those of other languages: tuples, booleans that are numbers, what a dict's
// methods give, ranges that go backwards.
var harder = []string{
	// Conditions after tests; names that are words of Jinja elsewhere.
	"{% if x is not none and not missing %}a{% endif %}{% if none is none and n == 7 %}b{% endif %}{% if x is true or n %}c{% endif %}", "{{ x is string and 'y' }}{{ missing is defined and missing }}",
	"{% for call in l %}{{ '{\"n\": \"' ~ call ~ '\", ' ~ loop.index ~ '}' }}{% endfor %}", "{% set filter = 'f' %}{% set block = d %}{{ filter ~ block['k'] ~ '}}' }}", "{{ 'a' if x == 'q' else 'b' if n == 7 else 'c' }}{{ x if n else y }}",
	"{{ 1 < n < 9 }}{{ 1 < n > 9 }}{{ n in l in [l] }}{{ not x in l }}{{ not 'z' in x and true }}", "{{ n is divisibleby 7 and x is eq 'banana' }}{{ n is in l }}{{ 'a' is in 'abc' }}{{ n is gt 3 }}{{ 2 is in [1, 2] or x }}",
	// Tuples.
	"{{ (1, 'a') }}{{ (1,) }}{{ () }}{{ [(1, 2)] }}{{ (1, 2) == [1, 2] }}{{ (1, 2) + (3,) }}{{ (1, 2)[0] }}{{ (1, 2)[1:] }}{{ (1, 2) * 2 }}", "{{ d.items() }}{{ d.keys() }}{{ d.values() }}{{ d.items() | list }}{{ d.items() | length }}{{ ('k', 'v') in d.items() }}",
	"{{ d | dictsort }}{{ d | dictsort(by='key', reverse=true) }}{{ d | items | list }}{{ 'a=b=c'.partition('=') }}{{ 'a'.rpartition('=') }}", "{{ '%s' % (1,) }}{{ '%s' % [1] }}{{ '%s %s' % ('a', [1]) }}{{ '%s' % ((1, 2),) }}{% set t = 1, 2 %}{{ t }}{% set a, b = 'x', 'y' %}{{ a ~ b }}",
	"{% for key, group in rows | groupby('a') %}{{ key }}{{ group }}{% endfor %}{% for g in rows | groupby('a') %}{{ g.grouper }}{{ g.list | length }}{{ g[0] }}{% endfor %}{{ rows | groupby('a') }}",
	// Numbers and booleans.
	"{{ true + 1 }}{{ true == 1 }}{{ true < 2 }}{{ false in [0] }}{{ true is number }}{{ -true }}{{ [1] == [1.0] }}{{ true ~ 1 }}", "{{ 2 ** 3 ** 2 }}{{ (-2) ** 2 }}{{ 7 // -2 }}{{ -7 % 3 }}{{ 7.5 // 2 }}{{ 2 ** -1 }}{{ 2 ** 0.5 }}{{ 4 / 2 }}{{ 10 ** 20 }}{{ +n }}{{ - n }}",
	"{{ 2.5 | round }}{{ 3.5 | round }}{{ 2.675 | round(2) }}{{ 1234 | round(-2) }}{{ 2.1 | round(0, 'ceil') }}{{ 7 | round }}{{ 2.25 | round(1, 'floor') }}{{ n | round(method='ceil') }}", "{{ 1e3 }}{{ 1.5E-3 }}{{ 1_000 }}{{ 0x1f }}{{ 0b11 }}{{ 1e16 }}{{ 1e-10 }}{{ 100.0 * 3 }}{{ 0.1 + 0.2 }}",
	"{{ 'x' | int(default=4) }}{{ '0x1f' | int(0, 16) }}{{ '-3' | int }}{{ ' 5 ' | int }}{{ none | int }}{{ '1_0' | int }}{{ 'z' | float(default=1.5) }}{{ true | int }}",
	// And, or: one of the operands.
	"{{ [1] and '' }}|{{ (1, 2) and 0 }}|{{ -2 and 'a' }}|{{ {'a': 1} and none }}|{{ [] or {} or 'q' }}|{{ 'a' and 'b' and 'c' }}|{{ ('' and 'x') or 'z' }}",
	// Parts of lists and texts.
	"{{ l[2:0:-1] }}{{ l[::-1] }}{{ x[4:1:-2] }}{{ ''[::-1] }}|{{ [][::-1] }}{{ l[-2:] }}{{ l[5:] }}{{ x[-3:-1] }}{{ l[::2] }}{{ messages[::-1][0].content }}{{ x[9:0:-1] }}", "{{ l.0 }}{{ messages.0.role }}{{ rows[0].a }}{{ l[true] is defined }}{{ l[-9] is defined }}",
	// Nothing and what is not defined.
	"{{ missing | length }}{{ missing | list }}{{ missing ~ 'a' }}{{ 'a' in missing }}{{ missing == none }}{{ missing | items | list }}{{ missing | first }}{{ not missing }}", "{{ none.a is defined }}{{ d.zz is defined }}{{ x.zz }}{{ none ~ 'a' }}{{ none in [none] }}",
	// Methods without a call, and keys that are called as they.
	"{{ schema.items is defined }}{{ schema['items'] }}{{ schema.items is callable }}{{ schema.items() | list | length }}{{ x.upper is defined }}{{ schema.get('items') }}{{ 'items' in schema }}", "{% set ns = namespace(items=[1], keys='k') %}{{ ns.items }}{{ ns.keys }}{{ ns is mapping }}",
	"{{ dict([('a', 1)]) }}{{ dict({'b': 1}, c=2) }}{{ dict(**d) | length }}{{ {1: 'a', none: 2, 'b': [()]} }}{{ {1: 2, none: 3, false: 4, 1.5: 6} | tojson }}{{ '%(k)s' | format(k=n) }}{{ 7 | format }}", "{{ (1, 2) | tojson }}{{ d | tojson | length }}{{ (d | tojson)[0] }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, indent=1) }}",
	// Filters.
	"{{ rows | sum(attribute='a') }}{{ l | sum(start=10) }}{{ rows | sum('a', 1) }}{{ d | first }}{{ d | last }}{{ d | reverse | list }}{{ l | count }}{{ rows | map(attribute='b') | join }}", "{{ 'a\n\nb' | indent('> ') }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb\n' | indent(first=true) }}|",
	"{{ '<a & \"b\">' | e }}{{ '<' | e | e }}{{ ('<' | e) + '<' }}{{ 'a' | safe + '<' }}{{ ('<' | e) ~ '<' }}{{ '<b>' | forceescape }}", "{{ 'a b/ü?' | urlencode }}{{ '<p>a  <b>c</b></p>' | striptags }}{{ x is lower }}{{ 'A1' is upper }}{{ n is lower }}{{ -2.5 | abs }}{{ true | abs }}",
	"{{ rows | selectattr('a', 'gt', 1) | map(attribute='b') | list }}{{ rows | rejectattr('a', 'in', [1]) | list | length }}{{ [1, true, 'a'] | select('number') | list }}{{ l | select('eq', 2) | list }}",
	"{{ ['b', 'A', 'c', 'a'] | sort }}{{ ['b', 'A', 'c', 'a'] | sort(case_sensitive=true) }}{{ ['b', 'A', 'a'] | sort(reverse=true) }}{{ rows | sort(attribute='a') }}{{ rows | sort(attribute='a,b', reverse=true) | map(attribute='b') | list }}{{ rows | sort(true, false, 'b') }}",
	"{{ [2, 1.0, true, 3] | sort }}{{ [(1, 'b'), (1, 'a'), (0, 'z')] | sort }}{{ [[2], [1, 5]] | sort }}{{ 'hello' | sort | join }}{{ d | sort }}{{ [] | sort }}{{ missing | sort }}{{ rows | sort(attribute='a') | sort(attribute='b', reverse=true) | map(attribute='b') | join }}",
	"{{ [3, 1, 2] | min }}{{ [3, 1, 2] | max }}{{ ['b', 'A'] | min }}{{ ['a', 'B'] | max }}{{ ['b', 'A', 'a'] | min(case_sensitive=true) }}{{ rows | max(attribute='a') }}{{ rows | min(false, 'a') }}{{ [] | min is defined }}{{ [1, 1.0, true] | max }}{{ [true, 1] | min }}{{ 'hello' | max }}{{ missing | min }}|",
	"{{ ['b', 'B', 'a', 'b'] | unique | list }}{{ ['b', 'B'] | unique(true) | list }}{{ [1, 1.0, true, '1', none, (1, 2), (1.0, 2), 0, false, -0.0] | unique | list }}{{ rows | unique(attribute='a') | map(attribute='b') | list }}{{ 'hello' | unique | join }}{{ [(1, 'a'), ((1,), 'a'), '(1,a,)'] | unique | list | length }}",
	"{{ {1: 'a', 1.0: 'b'} }}{{ d[l] is defined }}{{ l[d] }}{{ [d, d] | sort | length }}{{ rows | sort(attribute='zz') | length }}{{ rows | map(attribute=l) | list | length }}{{ {(1, 2): 'x'}[(1, 2)] }}{{ {none: 1}[none] }}{{ d['k'] }}{{ d[x] is defined }}{{ l[n - 6] }}{{ x[-1] }}{{ d.get(x, 'z') }}{{ d.get('k', 1) }}{{ d.get(none) }}{{ {'a': none}.get('a', 3) }}{% for m in messages %}{{ loop.changed(m.role) }}{{ loop.changed(m.role, 1) }}{% endfor %}",
	"<a{{ {'class': 'x', 'n': 1, 'no': none, 'm': missing, 'q': '<&\"'} | xmlattr }}>{{ {'a': 1} | xmlattr(false) }}{{ {} | xmlattr }}{{ {'b': '<' | e, 'c': [1]} | xmlattr(autospace=false) }}",
	// Methods of texts.
	"{{ '{} {}'.format(1, 'a') }}{{ '{1}{0}'.format(1, 2) }}{{ '{a:>4}|{b!r:<5}|'.format(a=1, b='x') }}{{ '{:05.1f}|{:,}|{:x}|{:^7}|{:+d}|{:.0%}'.format(2.25, 12345, 255, 'mid', 3, 0.5) }}{{ '{{}}'.format() }}{{ '{0[k]}{0}'.format(d) }}{{ '{:{}}|'.format('a', 4) }}",
	"{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith(('b', 'c')) }}{{ 'a\tb'.expandtabs(4) }}{{ 'a'.isascii() }}{{ '½'.isdigit() }}{{ '²'.isdigit() }}{{ 'é'.isprintable() }}{{ x.count('an') }}{{ l.count(2) }}", "{{ '\\x41\\101\\u00e9\\a\\d\\\\' }}{{ 'a' 'b' \"c\" }}{{ 'a\\\\nb' }}{{ 'a\\nb' }}",
	// Loops, macros and white space.
	"{% for c in 'ab' %}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}", "{% for i in [{'c': [{'c': []}]}, {'c': []}] recursive %}<{{ loop.depth }}{{ loop(i.c) }}>{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% endfor %}",
	"{% macro f(a, b=(1, 2), c='y' 'z') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}{{ f(1, c=-n) }}{{ f(*[1, 2], **{'c': 3}) }}", "{% macro f(a) %}[{{ caller(a) }}]{% endmacro %}{% call(q) f(5 % 3) %}{{ q ~ x }}{% endcall %}{% with a = 1, b = n % 4 %}{{ a + b }}{% endwith %}",
	"a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\rd{{ 'e\r\nf' }}", "{{-x-}} {%if n==7%}y{%endif%}{%-set b=2-%}{{b}}{#- c -#} {%+ if true %}z{% endif +%} \n", "{% set content = messages[1].content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ content }}",
	// What is always given, and under which names.
	"{{ tools is defined }}{{ tools is none }}{{ documents }}{{ tools }}{% if tools is not none %}T{% endif %}", "{% for m in thoughts %}{{ m.content is defined }}{% endfor %}",
}

// refused are templates that are errors in Python.
var refused = []string{
	"{{ raise_exception('no ' ~ x) }}", "{{ 'a' + 1 }}", "{{ 'a' < 1 }}", "{{ none + 'a' }}", "{{ missing.a }}", "{{ missing + 'a' }}", "{{ 'a' in none }}", "{{ 1 in 'a' }}", "{{ none | length }}", "{{ n | length }}", "{% for i in none %}{% endfor %}", "{% for i in 3 %}{% endfor %}",
	"{{ missing | tojson }}", "{{ d.items() | tojson }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}", "{{ l + (1,) }}", "{{ l[::0] }}", "{% set z = none %}{{ z[1:] }}", "{{ x.index('z') }}", "{{ l.append(1) }}", "{{ d.update({'a': 1}) }}", "{{ x.nothing() }}",
	"{{ l | dictsort }}", "{{ x | items | list }}", "{{ 'a' | round }}", "{{ '{} {}'.format(1) }}", "{{ '{:d}'.format('a') }}", "{{ x | no_such_filter }}", "{% if %}{% endif %}", "{{ 'a", "{{ ( }}", "{% endfor %}", "{{ a b }}", "{{ none < 1 }}", "{{ n | indent }}", "{{ dict(l) }}",
	"{{ {l: 1} }}", "{{ {[1]: 1} }}", "{{ d.get(l) }}", "{{ l in d }}", "{{ [l] | unique | list }}", "{{ {(1, [2]): 1} }}", "{{ dict([(d, 1)]) }}", "{{ [1, 'a'] | sort }}", "{{ [none, 1] | max }}", "{{ [d, {}] | sort }}", "{{ [d, d] | max }}", "{{ rows | sort(attribute='zz,a') | min(attribute='zz') }}",
	"{{ {'a b': 1} | xmlattr }}", "{{ {1: 1} | xmlattr }}", "{{ l | xmlattr }}", "{{ {'a=': 1} | xmlattr }}",
}

// rows are what loops and filters go through, schema has a key that is named as a method.
func arguments() ([]map[string]any, map[string]any) {
	messages := []map[string]any{{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}}
	return messages, map[string]any{
		"x": "banana", "n": 7, "l": []any{1, 2, 3}, "d": map[string]any{"k": "v", "q": []any{1.5, nil, false}},
		"rows": []any{map[string]any{"a": 2, "b": "x"}, map[string]any{"a": 1, "b": "y"}, map[string]any{"a": 2, "b": "z"}}, "schema": map[string]any{"items": map[string]any{"type": "string"}},
	}
}

// render renders in Python and here; "error: " begins an error.
func render(t *testing.T, sources []string, messages any, more map[string]any) (want, got []string) {
	t.Helper()
	var requests []any
	for _, source := range sources {
		requests = append(requests, []any{source, messages, more})
	}
	testenv.RunPython(t, "templates.py", requests, &want)
	for _, source := range sources {
		text, err := func() (string, error) {
			template, err := NewTemplate(source, map[string]string{"bos_token": "<s>"})
			if err != nil {
				return "", err
			}
			defer template.Close()
			return template.Render(t.Context(), messages, false, more)
		}()
		if err != nil {
			text = "error: " + err.Error()
		}
		got = append(got, text)
	}
	return want, got
}

// templates are those of a file, with lines of ==== between them.
func templates(t testing.TB, file string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n====\n")
}

func TestJinjaIsThatOfTransformers(t *testing.T) {
	all := slices.Concat(sources, harder, templates(t, "equal.txt"))
	messages, more := arguments()
	want, got := render(t, all, messages, more)
	for i, source := range all {
		if strings.HasPrefix(want[i], "error: ") {
			t.Errorf("%s: the test itself is wrong: %s", source, want[i])
		} else if got[i] != want[i] {
			t.Errorf("%s\n got %q\nwant %q", source, got[i], want[i])
		}
	}
}

func TestWhatJinjaRefusesIsRefused(t *testing.T) {
	messages, more := arguments()
	refused := slices.Concat(refused, templates(t, "errors.txt"))
	want, got := render(t, refused, messages, more)
	for i, source := range refused {
		if !strings.HasPrefix(want[i], "error: ") {
			t.Errorf("%s: the test itself is wrong: %q", source, want[i])
		}
		if !strings.HasPrefix(got[i], "error: ") {
			t.Errorf("%s is rendered to %q; Python says %s", source, got[i], want[i])
		}
	}
}

// What Python renders and this renderer cannot is refused before anything is rendered, so that another engine can be taken.
func TestWhatIsNotKnownIsRefusedWhenItIsRead(t *testing.T) {
	messages, more := arguments()
	unknown := templates(t, "unknown.txt")
	want, _ := render(t, unknown, messages, more)
	for i, source := range unknown {
		if strings.HasPrefix(want[i], "error: ") {
			t.Errorf("%s: the test itself is wrong: %s", source, want[i])
		}
		if template, err := NewTemplate(source, nil); err == nil {
			template.Close()
			t.Errorf("%s is read", source)
		} else if !strings.Contains(err.Error(), "not known here (template line") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// What is null in a message is not there, and thoughts are found by each of their names.
func TestMessagesReachTheTemplateAsInTransformers(t *testing.T) {
	const source = "{% for m in messages %}{{ m }}{{ m.content is defined }}{{ m.thinking }}{{ m.reasoning_content }}{% endfor %}"
	for _, messages := range [][]map[string]any{
		{{"role": "assistant", "content": nil, "tool_calls": nil}},
		{{"role": "assistant", "content": "a", "reasoning_content": "t"}}, {{"role": "assistant", "reasoning": "t"}}, {{"role": "assistant", "thinking": "t"}},
	} {
		want, got := render(t, []string{source}, messages, nil)
		if got[0] != want[0] {
			t.Errorf("%v\n got %q\nwant %q", messages, got[0], want[0])
		}
	}
}

// Where a model has a template of its own for functions, chats with functions take it.
func TestChatsWithFunctionsTakeTheirTemplate(t *testing.T) {
	const named = `{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | length }} functions"}]}`
	write := func(files map[string]string) string {
		dir := t.TempDir()
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for _, files := range []map[string]string{
		{"tokenizer_config.json": named},
		{"chat_template.jinja": "plain", "additional_chat_templates/tool_use.jinja": "{{ tools | length }} functions"},
	} {
		template, err := LoadTemplate(&modelfiles.Source{Dir: write(files)})
		if err != nil {
			t.Fatal(err)
		}
		messages := []map[string]any{{"role": "user", "content": "a"}}
		if text, err := template.Render(t.Context(), messages, true, nil); err != nil || text != "plain" {
			t.Errorf("without functions: %q, %v", text, err)
		}
		if text, err := template.Render(t.Context(), messages, true, map[string]any{"tools": []any{1, 2}}); err != nil || text != "2 functions" {
			t.Errorf("with functions: %q, %v", text, err)
		}
		template.Close()
		if _, err := template.Render(t.Context(), messages, true, map[string]any{"tools": []any{1}}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, source := range slices.Concat(sources, harder, refused) {
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
