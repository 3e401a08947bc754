//! A chat template as minijinja takes it: every tag is parsed by Jinja's grammar and written anew; see expression.rs.

use crate::expression::Parser;
use crate::lexer::{string_length, tokens, Token};

/// The template for minijinja. What it does not understand stays as it is, for minijinja to report.
pub fn rewrite(source: &str) -> String {
    // Jinja knows one end of line.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = &source[..];
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (open, close) = match rest.as_bytes().get(1) {
            Some(b'{') => ("{{", "}}"),
            Some(b'%') => ("{%", "%}"),
            Some(b'#') => {
                let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            _ => {
                out.push('{');
                rest = &rest[1..];
                continue;
            }
        };
        let Some(length) = end_of_tag(&rest[2..], close) else {
            break; // the tag does not end
        };
        let (body, tag) = (&rest[2..2 + length], &rest[..length + 4]);
        rest = &rest[length + 4..];
        if open == "{%" && word(body) == "raw" {
            let end = end_of_raw(rest);
            out.push_str(tag);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        out.push_str(open);
        out.push_str(&rewrite_tag(body, open == "{%"));
        out.push_str(close);
    }
    out.push_str(rest);
    out
}

/// The first word of a tag, after the sign that controls white space.
fn word(body: &str) -> &str {
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
fn rewrite_tag(body: &str, statement: bool) -> String {
    let sign = |found: Option<char>| found.filter(|c| "-+".contains(*c)).map_or("", |c| if c == '-' { "-" } else { "+" });
    let first = sign(body.chars().next());
    let last = if body.len() > first.len() { sign(body.chars().last()) } else { "" };
    let core = &body[first.len()..body.len() - last.len()];
    let Some(tokens) = tokens(core) else { return body.to_owned() };
    let text = if statement {
        rewrite_statement(&tokens)
    } else {
        let mut p = Parser::new(&tokens);
        p.tuple(true, "").filter(|_| p.done()).map(|value| value.text)
    };
    match text {
        // Errors name lines: the tag keeps its number of them.
        Some(text) => format!("{first} {text}{} {last}", "\n".repeat(core.matches('\n').count())),
        None => body.to_owned(),
    }
}

/// A statement, or None for one that stays as it is.
fn rewrite_statement(tokens: &[Token]) -> Option<String> {
    let mut p = Parser::new(tokens);
    let text = match p.name()? {
        // A block of its own, as in transformers: what is set inside stays inside.
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        word @ ("if" | "elif") => format!("{word} {}", p.tuple(false, "")?.text),
        "for" => {
            let target = target(&mut p, "in")?;
            let values = p.tuple(false, "recursive")?.text;
            let condition = if p.skip_name("if") { format!(" if {}", p.expression()?.text) } else { String::new() };
            let recursive = if p.skip_name("recursive") { " recursive" } else { "" };
            format!("for {target} in __iterate({values}){condition}{recursive}")
        }
        "set" => {
            let target = target(&mut p, "=")?;
            format!("set {target} = {}", p.tuple(true, "")?.text)
        }
        "macro" => {
            let name = p.name()?;
            format!("macro {name}{}", parameters(&mut p)?)
        }
        "call" => {
            let given = if p.is_mark("(") { parameters(&mut p)? } else { String::new() };
            format!("call{given} {}", p.expression()?.text)
        }
        "with" => {
            let mut parts = Vec::new();
            while !p.done() {
                if !parts.is_empty() && !p.skip_mark(",") {
                    return None;
                }
                let target = target(&mut p, "=")?;
                parts.push(format!("{target} = {}", p.expression()?.text));
            }
            format!("with {}", parts.join(", "))
        }
        _ => return None,
    };
    p.done().then_some(text)
}

/// The names that get values, up to a mark or a word, which is passed over: `a`, `a, b`, `a, (b, c)`, `ns.a`.
fn target(p: &mut Parser, end: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        if !out.is_empty() && (p.skip_mark(end) || p.skip_name(end)) {
            return Some(out);
        }
        match [",", "(", ")", "."].into_iter().find(|mark| p.skip_mark(mark)) {
            Some(mark) => out += mark,
            None => out += p.name()?,
        }
    }
}

/// The parameters of a macro, in brackets.
fn parameters(p: &mut Parser) -> Option<String> {
    if !p.skip_mark("(") {
        return None;
    }
    let mut parts = Vec::new();
    while !p.skip_mark(")") {
        if !parts.is_empty() && !p.skip_mark(",") {
            return None;
        }
        if p.skip_mark(")") {
            break;
        }
        let name = p.name()?;
        parts.push(if p.skip_mark("=") { format!("{name}={}", p.expression()?.text) } else { name.to_owned() });
    }
    Some(format!("({})", parts.join(", ")))
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
            ("{{- a ~ b | f ~ 'c' -}}", "{{- __compute(a,'~',b|f,'~','c') -}}"),
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            ("{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b", "{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b"),
            ("{{ '' and x }}", "{{ (__value('') and x) }}"),
            ("{% if tools is not none and not x %}", "{% if ((tools is not none) and (not x)) %}"),
            ("{{ call['name'] ~ '\"}' }}", "{{ __compute(call['name'],'~','\"}') }}"),
            ("{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}} }}"),
            ("{{ -a ** -b }}", "{{ __compute(__sign('-',a),'**',__sign('-',b)) }}"),
            ("{{ x if y else\nz }}", "{{ (x if y else z)\n }}"),
            ("{{ d.items, d.items()[0], l[1:] }}", "{{ __tuple(__attribute(d,'items'),d.items()[0],__slice(l,1,none)) }}"),
            ("{% for a, (b, c) in x if a is in(y) recursive %}", "{% for a,(b,c) in __iterate(x) if (a is in(y)) recursive %}"),
            ("{% set ns.a = 1, 2 %}{% set x | upper %}", "{% set ns.a = __tuple(1,2) %}{% set x | upper %}"),
            ("{% macro f(a, b='x' 'y') %}", "{% macro f(a, b='xy') %}"),
            ("{% call(q) f(*a, b=c) %}", "{% call(q) f(*a, b=c) %}"),
        ] {
            let squeeze = |s: &str| s.split(' ').filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
            assert_eq!(squeeze(&rewrite(from)), squeeze(want), "{from}");
        }
    }

    #[test]
    fn any_text_is_rewritten_without_a_panic() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        let signs = format!("{{{{ {}1 }}}}", "-".repeat(100_000));
        let nots = format!("{{{{ {}1 }}}}", "not ".repeat(100_000));
        let cases = ["{", "{{", "{% %", "{{ '", "{% raw %}", "{{ % }}", "{{ ~ }}", "{{ ) % ( }}", "{#", "{{ ä % ö }}", "{%-%}", "{{-}}", "{{ a %}}", "{{ x[ }}", "{% for %}"];
        for text in cases.into_iter().chain([&deep[..], &signs, &nots]) {
            rewrite(text);
        }
    }
}
