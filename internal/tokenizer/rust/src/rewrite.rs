//! A chat template as minijinja takes it: every tag is parsed by Jinja's grammar and written anew; see expression.rs.

use crate::expression::Parser;
use crate::lexer::{string_length, tokens, Token};

/// In a template of more bytes, variables are looked at, too: each could make values one level deeper.
const LONG: usize = 1 << 16;
/// minijinja goes deeper into its stack with every operator of a chain and every `elif`; a stack that overflows ends the process. So tags
/// have a bound of tokens, or of bytes where they are not understood, and templates one of `elif`s. Those of models have a tenth of it.
const TOKENS: usize = 4000;
const BYTES: usize = 4000;
const BRANCHES: usize = 1000;
/// So much text in a macro is not worth counting each time it is called.
const LITTLE: usize = 64;

enum Part<'a> {
    Text(&'a str), // also a comment, and what is raw with its marks
    Endless(&'a str), // a tag that does not end, and what follows
    Tag { open: &'a str, body: &'a str, close: &'a str },
}

/// The template for minijinja. What it does not understand stays as it is, for minijinja to report.
pub fn rewrite(source: &str) -> Result<String, String> {
    // Jinja knows one end of line.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let parts = parts(&source);
    let texts = texts(&parts);
    let branches = parts.iter().filter(|part| matches!(part, Part::Tag { open: "{%", body, .. } if word(body) == "elif")).count();
    if branches > BRANCHES {
        return Err(format!("it has {branches} elif tags; {BRANCHES} are allowed"));
    }
    let mut out = String::with_capacity(source.len());
    for (part, bytes) in parts.iter().zip(texts) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Endless(text) if text.len() > BYTES => return Err("it has a tag that does not end".into()),
            Part::Endless(text) => out.push_str(text),
            Part::Tag { open, body, close } => {
                let place = Place { statement: *open == "{%", bytes, long: source.len() > LONG };
                out.push_str(open);
                out.push_str(&rewrite_tag(body, &place)?);
                out.push_str(close);
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
            out.push(Part::Endless(rest));
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
        out.push(Part::Tag { open, body, close });
        rest = after;
    }
    out.push(Part::Text(rest));
    out
}

/// How much text stands in each loop, macro and call, by the index of its tag; not in those inside of it.
fn texts(parts: &[Part]) -> Vec<usize> {
    let mut out = vec![0; parts.len()];
    let mut inside = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                if let Some(&tag) = inside.last() {
                    out[tag] += text.len();
                }
            }
            Part::Tag { open: "{%", body, .. } => match word(body) {
                "for" | "macro" | "call" => inside.push(i),
                "endfor" | "endmacro" | "endcall" => {
                    inside.pop();
                }
                _ => {}
            },
            Part::Tag { .. } | Part::Endless(_) => {}
        }
    }
    out
}

/// What is known of a tag beside its own text.
struct Place {
    statement: bool,
    bytes: usize, // of the text that stands in it
    long: bool,   // the template is
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
fn rewrite_tag(body: &str, place: &Place) -> Result<String, String> {
    let sign = |found: Option<char>| found.filter(|c| "-+".contains(*c)).map_or("", |c| if c == '-' { "-" } else { "+" });
    let first = sign(body.chars().next());
    let last = if body.len() > first.len() { sign(body.chars().last()) } else { "" };
    let core = &body[first.len()..body.len() - last.len()];
    let as_it_is = || {
        if body.len() > BYTES {
            return Err(format!("it has a tag of {} bytes that is not understood; {BYTES} are allowed", body.len()));
        }
        Ok(body.to_owned())
    };
    let Some(tokens) = tokens(core) else { return as_it_is() };
    if tokens.len() > TOKENS {
        return Err(format!("it has a tag with {} names, numbers and marks; {TOKENS} are allowed", tokens.len()));
    }
    let text = if place.statement {
        rewrite_statement(&tokens, place)
    } else {
        let mut p = Parser::new(&tokens);
        p.tuple(true, "").filter(|_| p.done()).map(|value| value.text)
    };
    match text {
        // Errors name lines: the tag keeps its number of them.
        Some(text) => {
            let lines = "\n".repeat(core.matches('\n').count());
            // A macro is a function: no loop counts what it writes.
            let count = match word(body) {
                "macro" | "call" if place.statement && place.bytes > LITTLE => format!("%}}{{% set __bytes = __text({}) ", place.bytes),
                _ => String::new(),
            };
            Ok(format!("{first} {text}{lines} {count}{last}"))
        }
        None => as_it_is(),
    }
}

/// A statement, or None for one that stays as it is.
fn rewrite_statement(tokens: &[Token], place: &Place) -> Option<String> {
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
            format!("for {target} in __iterate({values},{}){condition}{recursive}", place.bytes)
        }
        "set" => {
            let target = target(&mut p, "=")?;
            let value = p.tuple(true, "")?.text;
            format!("set {target} = {}", kept(value, target.contains('.'), place.long))
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
                parts.push(format!("{target} = {}", kept(p.expression()?.text, false, place.long)));
            }
            format!("with {}", parts.join(", "))
        }
        _ => return None,
    };
    p.done().then_some(text)
}

/// A value that a name gets, which is looked at; see values.rs.
fn kept(value: String, in_namespace: bool, long: bool) -> String {
    let simple = matches!(&value[..], "true" | "false" | "none") || value.bytes().all(|b| b.is_ascii_digit()) || value.starts_with("__compare(");
    match (in_namespace, long) {
        _ if simple => value,
        (true, _) => format!("__keep({value})"),
        (false, true) => format!("__shallow({value})"),
        (false, false) => value,
    }
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
            ("{% for a, (b, c) in x if a is in(y) recursive %}", "{% for a,(b,c) in __iterate(x,0) if (a is in(y)) recursive %}"),
            ("{% set ns.a = 1, 2 %}{% set x | upper %}", "{% set ns.a = __keep(__tuple(1,2)) %}{% set x | upper %}"),
            ("{% macro f(a, b='x' 'y') %}", "{% macro f(a, b='xy') %}"),
            ("{% macro f() -%}LONG{%- for i in x %}a{% endfor %}{%- endmacro %}", "{% macro f() %}{% set __bytes = __text(70) -%}LONG{%- for i in __iterate(x,1) %}a{% endfor %}{%- endmacro %}"),
            ("{{ {'a': 1, x: 2, 3: [x]}[y]['z'][0][-1] }}", "{{ ({'a': 1, __key(x): 2, 3: [x]})[__index(y)]['z'][0][__index(__sign('-',1))] }}"),
            ("{% if loop.changed(a, b) %}", "{% if loop.changed(__seen(a, b)) %}"),
            ("{% call(q) f(*a, b=c) %}", "{% call(q) f(*a, b=c) %}"),
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
