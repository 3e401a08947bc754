//! Jinja's statements, written for minijinja.

use crate::expression::Parser;
use crate::lexer::Token;
use crate::rewrite::{word, Part};

/// So much text in a macro is not worth counting each time it is called.
const LITTLE: usize = 64;
/// What a macro has beside its parameters, if its body says the name.
const SPECIAL: [&str; 3] = ["caller", "varargs", "kwargs"];

/// What stands between a tag and the one that ends it.
#[derive(Clone, Default)]
pub struct Body {
    bytes: usize,       // of text, in no other loop or macro
    special: [bool; 3], // whether it says the name
    in_macro: bool,     // whether the tag itself stands in a macro
}

/// The bodies of loops, macros and calls, by the index of the tag.
pub fn bodies(parts: &[Part]) -> Vec<Body> {
    let mut out = vec![Body::default(); parts.len()];
    let mut inside: Vec<(usize, bool)> = Vec::new(); // the index of a tag, and whether it is a macro or a call
    for (i, part) in parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                if let Some(&(tag, _)) = inside.last() {
                    out[tag].bytes += text.len();
                }
            }
            Part::Tag(tag) => {
                out[i].in_macro = inside.iter().any(|(_, of_macro)| *of_macro);
                for (special, name) in SPECIAL.iter().enumerate() {
                    if tag.tokens.as_ref().is_some_and(|tokens| says(tokens, name)) {
                        inside.iter().for_each(|(tag, _)| out[*tag].special[special] = true);
                    }
                }
                match word(tag.body) {
                    _ if tag.open != "{%" => {}
                    name @ ("for" | "macro" | "call") => inside.push((i, name != "for")),
                    "endfor" | "endmacro" | "endcall" => {
                        inside.pop();
                    }
                    _ => {}
                }
            }
            Part::Endless => {}
        }
    }
    out
}

/// Whether a variable's name is among the tokens: it is no attribute, and no argument is given under it.
fn says(tokens: &[Token], name: &str) -> bool {
    let mark = |token: Option<&Token>, mark: &str| matches!(token, Some(Token::Mark(m)) if *m == mark);
    let is = |i: usize| matches!(&tokens[i], Token::Name(n) if n == name);
    (0..tokens.len()).any(|i| is(i) && !mark(tokens.get(i + 1), "=") && !(i > 0 && mark(tokens.get(i - 1), ".")))
}

/// A statement, or None for one that is not understood.
pub fn rewrite(p: &mut Parser, body: &Body, long: bool) -> Option<String> {
    Some(match p.name()? {
        // A block of its own, as in transformers: what is set inside stays inside.
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        word @ ("else" | "endif" | "endfor" | "endmacro" | "endcall" | "endwith" | "endraw" | "break" | "continue") => word.to_owned(),
        // What is set in these stays inside, too.
        word @ ("endset" | "endfilter") => format!("endwith %}}{{% {word}"),
        "filter" => {
            let mut filters = vec![p.filter()?];
            while p.skip_mark("|") {
                filters.push(p.filter()?);
            }
            format!("filter {} %}}{{% with", filters.join("|"))
        }
        word @ ("if" | "elif") => format!("{word} {}", p.tuple(false, "")?.text),
        "for" => {
            let target = target(p, "in", body)?;
            let values = p.tuple(false, "recursive")?.text;
            let condition = if p.skip_name("if") { format!(" if {}", p.expression()?.text) } else { String::new() };
            let recursive = if p.skip_name("recursive") { " recursive" } else { "" };
            format!("for {target} in __iterate({values},{}){condition}{recursive}", body.bytes)
        }
        "set" => set(p, body, long)?,
        "macro" => {
            let name = p.name()?;
            let (parameters, defaults) = parameters(p, body, long)?;
            format!("macro {name}({parameters}){defaults}")
        }
        "call" => {
            let (parameters, defaults) = parameters(p, body, long)?;
            format!("call({parameters}) {}{defaults}", p.expression()?.text)
        }
        "with" => {
            let (mut targets, mut values) = (Vec::new(), Vec::new());
            while !p.done() {
                if !targets.is_empty() && !p.skip_mark(",") {
                    return None;
                }
                targets.push(target(p, "=", body)?);
                values.push(kept(p.expression()?.text, false, long));
            }
            match &targets[..] {
                [] => "with".to_owned(),
                [one] if !one.contains(',') => format!("with {one} = {}", values[0]),
                // All values are computed before any name has one.
                targets => format!("with ({},) = __tuple({})", targets.iter().map(|target| bracketed(target)).collect::<Vec<_>>().join(","), values.join(",")),
            }
        }
        other => return p.refuse(format!("the tag {other} is not known here")),
    })
}

fn set(p: &mut Parser, body: &Body, long: bool) -> Option<String> {
    let mut target = String::new();
    while !p.done() && !p.is_mark("|") && !p.is_mark("=") {
        target += &part_of_target(p, body)?;
    }
    if p.skip_mark("=") {
        return Some(format!("set {target} = {}", kept(p.tuple(true, "")?.text, target.contains('.'), long)));
    }
    let mut filters = String::new();
    while p.skip_mark("|") {
        filters += &format!("|{}", p.filter()?);
    }
    Some(format!("set {target} {filters} %}}{{% with"))
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

fn bracketed(target: &str) -> String {
    if target.contains(',') && !target.starts_with('(') {
        format!("({target})")
    } else {
        target.to_owned()
    }
}

/// The names that get values, up to a mark or a word, which is passed over: `a`, `a, b`, `a, (b, c)`, `ns.a`.
fn target(p: &mut Parser, end: &str, body: &Body) -> Option<String> {
    let mut out = String::new();
    loop {
        if !out.is_empty() && (p.skip_mark(end) || p.skip_name(end)) {
            return Some(out);
        }
        out += &part_of_target(p, body)?;
    }
}

fn part_of_target(p: &mut Parser, body: &Body) -> Option<String> {
    if let Some(mark) = [",", "(", ")"].into_iter().find(|mark| p.skip_mark(mark)) {
        return Some(mark.to_owned());
    }
    let name = variable(p)?;
    if body.in_macro && SPECIAL.contains(&&name[..]) {
        return p.refuse(format!("a macro gives {name} a value"));
    }
    if !p.skip_mark(".") {
        return Some(name);
    }
    let attribute = p.name()?;
    if attribute.starts_with('_') {
        return p.refuse(format!("a namespace keeps nothing under the name {attribute}"));
    }
    Some(format!("{name}.{attribute}"))
}

/// The name of a variable that gets a value.
fn variable(p: &mut Parser) -> Option<String> {
    let name = p.name()?;
    if matches!(name, "true" | "True" | "false" | "False" | "none" | "None" | "loop" | "self") || name.starts_with("__") {
        return p.refuse(format!("{name} cannot get a value"));
    }
    Some(name.to_owned())
}

/// The parameters of a macro or a call, with those that calls.rs fills; and tags that give those without a value their defaults, which may
/// be made of parameters before them.
fn parameters(p: &mut Parser, body: &Body, long: bool) -> Option<(String, String)> {
    let (mut names, mut tags) = (Vec::new(), String::new());
    if p.skip_mark("(") {
        while !p.skip_mark(")") {
            if !names.is_empty() && !p.skip_mark(",") {
                return None;
            }
            let name = variable(p)?;
            let repeated = names.contains(&name);
            names.push(name);
            let name = &names[names.len() - 1];
            if p.skip_mark("=") {
                let value = kept(p.expression()?.text, false, long);
                tags += &format!(" %}}{{% set {name} = ({name} if __given[{}] else {value})", names.len() - 1);
            } else if !tags.is_empty() || repeated || name == "caller" {
                return None;
            }
        }
    }
    let mut all = names.clone();
    all.push("__given".into());
    let special = SPECIAL.iter().zip(body.special).filter(|(name, said)| *said && !names.iter().any(|n| n == *name));
    all.extend(special.map(|(name, _)| (*name).to_owned()));
    // A macro is a function: no loop counts what it writes.
    if body.bytes > LITTLE {
        tags += &format!(" %}}{{% set __bytes = __text({})", body.bytes);
    }
    Some((all.join(","), tags))
}
