//! A chat template as minijinja takes it: every tag is parsed by Jinja's grammar and written anew (statement.rs, expression.rs). What is not
//! understood is refused, so that nothing is rendered otherwise than Jinja does.

use crate::expression::Parser;
use crate::lexer::{string_length, tokens, Token};
use crate::statement::{self, Body};

/// In a template of more bytes, variables are looked at, too: each could make values one level deeper.
const LONG: usize = 1 << 16;
/// minijinja goes deeper into its stack with every operator of a chain and every `elif`; a stack that overflows ends the process. So tags
/// have a bound of tokens, and templates one of `elif`s. Those of models have a tenth of it.
const TOKENS: usize = 4000;
const BRANCHES: usize = 1000;

pub enum Part<'a> {
    Text(&'a str), // also a comment, and what is raw with its marks
    Endless,       // a tag that does not end, and what follows
    Tag(Tag<'a>),
}

pub struct Tag<'a> {
    pub open: &'static str,
    close: &'static str,
    pub body: &'a str,
    first: &'a str, // the sign that controls white space before it
    last: &'a str,
    lines: usize,
    pub tokens: Option<Vec<Token>>, // None: Jinja does not know some
}

impl<'a> Tag<'a> {
    fn new(open: &'static str, close: &'static str, body: &'a str) -> Self {
        let sign = |c: Option<char>| c.is_some_and(|c| "-+".contains(c));
        let first = &body[..usize::from(sign(body.chars().next()))];
        let rest = &body[first.len()..];
        let (core, last) = rest.split_at(rest.len() - usize::from(sign(rest.chars().last())));
        Tag { open, close, body, first, last, lines: core.matches('\n').count(), tokens: tokens(core) }
    }
}

/// The template for minijinja, or why it is refused.
pub fn rewrite(source: &str) -> Result<String, String> {
    // Jinja knows one end of line.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let parts = parts(&source);
    let branches = parts.iter().filter(|part| matches!(part, Part::Tag(tag) if tag.open == "{%" && word(tag.body) == "elif")).count();
    if branches > BRANCHES {
        return Err(format!("it has {branches} elif tags; {BRANCHES} are allowed"));
    }
    let bodies = statement::bodies(&parts);
    let mut out = String::with_capacity(source.len());
    let mut line = 1;
    for (part, body) in parts.iter().zip(bodies) {
        match part {
            Part::Text(text) => {
                out.push_str(text);
                line += text.matches('\n').count();
            }
            Part::Endless => return Err(format!("it has a tag that does not end (template line {line})")),
            Part::Tag(tag) => {
                out.push_str(&rewrite_tag(tag, &body, source.len() > LONG).map_err(|why| format!("{why} (template line {line})"))?);
                line += tag.lines;
            }
        }
    }
    Ok(out)
}

fn parts(source: &str) -> Vec<Part<'_>> {
    let mut out = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push(Part::Text(&rest[..at]));
        rest = &rest[at..];
        let (open, close) = match rest.as_bytes().get(1) {
            Some(b'{') => ("{{", "}}"),
            Some(b'%') => ("{%", "%}"),
            Some(b'#') => {
                let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
                out.push(Part::Text(&rest[..end]));
                rest = &rest[end..];
                continue;
            }
            _ => {
                out.push(Part::Text(&rest[..1]));
                rest = &rest[1..];
                continue;
            }
        };
        let Some(length) = end_of_tag(&rest[2..], close) else {
            out.push(Part::Endless);
            return out;
        };
        let (body, tag) = (&rest[2..2 + length], &rest[..length + 4]);
        let after = &rest[length + 4..];
        if open == "{%" && word(body) == "raw" {
            let end = tag.len() + end_of_raw(after);
            out.push(Part::Text(&rest[..end]));
            rest = &rest[end..];
            continue;
        }
        out.push(Part::Tag(Tag::new(open, close, body)));
        rest = after;
    }
    out.push(Part::Text(rest));
    out
}

/// The first word of a tag, after the sign that controls white space.
pub fn word(body: &str) -> &str {
    let body = body.trim_start_matches(['-', '+']).trim_start();
    &body[..body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())]
}

fn end_of_raw(rest: &str) -> usize {
    let mut from = 0;
    while let Some(at) = rest[from..].find("{%") {
        if word(&rest[from + at + 2..]) == "endraw" {
            return from + at;
        }
        from += at + 2;
    }
    rest.len()
}

/// Where a tag's closing marks begin; those in strings and brackets do not count.
fn end_of_tag(body: &str, close: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let (mut i, mut depth) = (0, 0usize);
    while i < bytes.len() {
        if depth == 0 && bytes[i..].starts_with(close.as_bytes()) {
            return Some(i);
        }
        match bytes[i] {
            quote @ (b'"' | b'\'') => i += string_length(&bytes[i..], quote)? - 1,
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    None
}

/// What is between a tag's marks.
fn rewrite_tag(tag: &Tag, body: &Body, long: bool) -> Result<String, String> {
    let Some(tokens) = &tag.tokens else { return Err("a tag has marks that Jinja does not know".into()) };
    if tokens.len() > TOKENS {
        return Err(format!("it has a tag with {} names, numbers and marks; {TOKENS} are allowed", tokens.len()));
    }
    let mut p = Parser::new(tokens);
    let text = match tag.open {
        "{%" => statement::rewrite(&mut p, body, long),
        _ => p.tuple(true, "").map(|value| value.text),
    };
    match text.filter(|_| p.done()) {
        // Errors name lines: the tag keeps its number of them.
        Some(text) => Ok(format!("{}{} {text}{} {}{}", tag.open, tag.first, "\n".repeat(tag.lines), tag.last, tag.close)),
        None => Err(p.why.unwrap_or_else(|| format!("this is not understood: {} ...", word(tag.body)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_become_calls() {
        for (from, want) in [
            ("{{ '%s' % x }}", "{{ __compute('%s','%',x) }}"),
            ("{%- if loop.index % 2 == 0 -%}", "{%- if __compare(__compute(loop.index,'%',2),'==',0) -%}"),
            ("{{ a * b % c + e }}", "{{ __compute(__compute(a,'*',b,'%',c),'+',e) }}"),
            ("{{- a ~ b | trim ~ 'c' -}}", "{{- __compute(a,'~',b|trim,'~','c') -}}"),
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            ("{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b", "{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b"),
            ("{{ '' and x }}", "{{ (__value('') and x) }}"),
            ("{% if tools is not none and not x %}", "{% if ((tools is not none) and (not x)) %}"),
            ("{{ call['name'] ~ '\"}' }}", "{{ __compute(call['name'],'~','\"}') }}"),
            ("{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}} }}"),
            ("{{ -a ** -b }}", "{{ __compute(__sign('-',a),'**',__sign('-',b)) }}"),
            ("{{ x if y else\nz }}", "{{ (x if y else z)\n }}"),
            ("{{ d.items, d.items()[0], l[1:] }}", "{{ __tuple(__attribute(d,'items'),__item(d.items(),0),__slice(l,1,none)) }}"),
            ("{% for a, (b, c) in x if a is in(y) recursive %}", "{% for a,(b,c) in __iterate(x,0) if (a is in(y)) recursive %}"),
            ("{% set ns.a = 1, 2 %}{% set x | upper -%}", "{% set ns.a = __keep(__tuple(1,2)) %}{% set x |upper %}{% with -%}"),
            ("{%- endset -%}{% filter trim | upper %}{% endfilter %}", "{%- endwith %}{% endset -%}{% filter trim|upper %}{% with %}{% endwith %}{% endfilter %}"),
            ("{% macro f(a, b='x' 'y') %}{{ kwargs }}", "{% macro f(a,b,__given,kwargs) %}{% set b = (b if __given[1] else 'xy') %}{{ kwargs }}"),
            ("{% macro f() -%}LONG{%- for i in x %}a{% endfor %}{%- endmacro %}", "{% macro f(__given) %}{% set __bytes = __text(70) -%}LONG{%- for i in __iterate(x,1) %}a{% endfor %}{%- endmacro %}"),
            ("{{ {'a': 1, x: 2, 3: [x]}[y]['z'][0][-1] }}", "{{ __item(__item(__item({'a': 1, __key(x): 2, 3: [x]},y)['z'],0),__sign('-',1)) }}"),
            ("{% if loop.changed(a, b) %}", "{% if loop.changed(__seen(a, b)) %}"),
            ("{% call(q) f(*a, b=c) %}", "{% call(q,__given) __call(f,'f')(*a, b=c) %}"),
            ("{{ f(a.b(1)) }}{{ loop(x) }}", "{{ __call(f,'f')(__call(a.b,'a.b')(1)) }}{{ loop(x) }}"),
            ("{% with a = 1, b = a %}", "{% with (a,b,) = __tuple(1,a) %}"),
            ("{{ d['items'] }}{{ d.x }}", "{{ __item(d,'items') }}{{ d.x }}"),
        ] {
            let squeeze = |s: &str| s.split(' ').filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
            let long = |s: &str| s.replace("LONG", &"x".repeat(70));
            assert_eq!(squeeze(&rewrite(&long(from)).unwrap()), squeeze(&long(want)), "{from}");
        }
    }

    #[test]
    fn any_text_is_rewritten_without_a_panic() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        let signs = format!("{{{{ {}1 }}}}", "-".repeat(100_000));
        let nots = format!("{{{{ {}1 }}}}", "not ".repeat(100_000));
        let cases = ["{", "{{", "{% %", "{{ '", "{% raw %}", "{{ % }}", "{{ ~ }}", "{{ ) % ( }}", "{#", "{{ ä % ö }}", "{%-%}", "{{-}}", "{{ a %}}", "{{ x[ }}", "{% for %}"];
        for text in cases.into_iter().chain([&deep[..], &signs, &nots]) {
            let _ = rewrite(text);
        }
    }
}
