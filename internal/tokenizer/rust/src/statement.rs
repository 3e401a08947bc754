//! Jinja's statements, written for minijinja.

use crate::expression::Parser;
use crate::lexer::Token;
use crate::rewrite::{word, Part};

/// So much text in a macro is not worth counting each time it is called.
const LITTLE: usize = 64;
/// What a macro has beside its parameters, if its body says the name.
const SPECIAL: [&str; 3] = ["caller", "varargs", "kwargs"];

/// What is known of a tag from those around it.
#[derive(Clone, Default)]
pub struct Body {
    bytes: usize,                  // of text in it, and in no other loop or macro
    special: [bool; 3],            // whether it says the name
    in_macro: bool,                // it stands in a macro
    scope: bool,                   // a loop whose rounds need a scope of their own
    ends_scope: bool,              // it ends one, or that of a loop's else
    of_loop: bool,                 // an else that is one of a loop
    refused: Option<&'static str>, // why
}

/// A tag whose end did not come yet, and that has variables of its own.
struct Open<'a> {
    tag: usize,
    name: &'a str,
    scope: bool, // of a loop: macros are in it. minijinja keeps what these see from one round to the next
    left: bool,  // of a loop: break or continue are in it
    other: bool, // of a loop: its else came
}

/// What is known of each tag, by its index.
pub fn bodies(parts: &[Part]) -> Vec<Body> {
    let mut out = vec![Body::default(); parts.len()];
    let mut inside: Vec<Open> = Vec::new();
    let mut branches = Vec::new(); // for each if and loop that did not end whether it is a loop
    for (i, part) in parts.iter().enumerate() {
        let tag = match part {
            Part::Text(text) => {
                if let Some(open) = inside.iter().rev().find(|open| matches!(open.name, "for" | "macro" | "call")) {
                    out[open.tag].bytes += text.len();
                }
                continue;
            }
            Part::Tag(tag) => tag,
            Part::Endless => continue,
        };
        out[i].in_macro = inside.iter().any(|open| matches!(open.name, "macro" | "call"));
        for (special, name) in SPECIAL.iter().enumerate() {
            if tag.tokens.as_ref().is_some_and(|tokens| says(tokens, name)) {
                inside.iter().for_each(|open| out[open.tag].special[special] = true);
            }
        }
        if tag.open != "{%" {
            continue;
        }
        match word(tag.body) {
            "if" => branches.push(false),
            "endif" => drop(branches.pop()),
            name @ ("for" | "macro" | "call" | "generation" | "with" | "filter" | "set") => {
                if name == "set" && !tag.tokens.as_ref().is_some_and(|tokens| is_block(tokens)) {
                    continue;
                }
                if let (Some(open), "macro" | "call") = (inside.last_mut(), name) {
                    open.scope |= open.name == "for" && !open.other;
                }
                if name == "for" {
                    branches.push(true);
                }
                inside.push(Open { tag: i, name, scope: false, left: false, other: false });
            }
            "else" if branches.last() == Some(&true) => {
                let Some(open) = inside.last_mut().filter(|open| open.name == "for") else { continue };
                (out[i].of_loop, out[i].ends_scope, open.other) = (true, open.scope, true);
            }
            "break" | "continue" => match inside.last_mut() {
                // The others have a scope that would be left without its end.
                Some(open) if open.name == "for" && !open.other => open.left = true,
                _ => out[i].refused = Some("break or continue in a block of a loop is not known here"),
            },
            "endfor" => {
                branches.pop();
                let Some(open) = inside.pop() else { continue };
                out[open.tag].scope = open.scope;
                out[i].ends_scope = open.scope || open.other;
                if open.scope && open.left {
                    out[i].refused = Some("a macro or a call in a loop with break or continue is not known here");
                }
            }
            "endmacro" | "endcall" | "endgeneration" | "endwith" | "endfilter" | "endset" => drop(inside.pop()),
            _ => {}
        }
    }
    out
}

/// Whether a `set` is one with a body.
fn is_block(tokens: &[Token]) -> bool {
    !tokens.iter().any(|token| *token == Token::Mark("=")) || tokens.iter().find(|token| matches!(token, Token::Mark("=" | "|"))) == Some(&Token::Mark("|"))
}

/// Whether a variable's name is among the tokens: it is no attribute, and no argument is given under it.
fn says(tokens: &[Token], name: &str) -> bool {
    let mark = |token: Option<&Token>, mark: &str| matches!(token, Some(Token::Mark(m)) if *m == mark);
    let is = |i: usize| matches!(&tokens[i], Token::Name(n) if n == name);
    (0..tokens.len()).any(|i| is(i) && !mark(tokens.get(i + 1), "=") && !(i > 0 && mark(tokens.get(i - 1), ".")))
}

/// A statement, or None for one that is not understood.
pub fn rewrite(p: &mut Parser, body: &Body, long: bool) -> Option<String> {
    if let Some(why) = body.refused {
        return p.refuse(why.into());
    }
    let ends = if body.ends_scope { "endwith %}{% " } else { "" };
    Some(match p.name()? {
        "else" if body.of_loop => format!("{ends}else %}}{{% with"),
        "endfor" => format!("{ends}endfor"),
        // A block of its own, as in transformers: what is set inside stays inside.
        "generation" => match SPECIAL.iter().zip(body.special).find(|(_, said)| *said) {
            Some((name, _)) => return p.refuse(format!("{name} in a generation block is not known here")),
            None => "with".to_owned(),
        },
        "endgeneration" => "endwith".to_owned(),
        word @ ("else" | "endif" | "endmacro" | "endcall" | "endwith" | "endraw" | "break" | "continue") => word.to_owned(),
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
            let scope = if body.scope { " %}{% with" } else { "" };
            format!("for {target} in __iterate({values},{}){condition}{recursive}{scope}", body.bytes)
        }
        "set" => set(p, body, long)?,
        "macro" => {
            let name = variable(p)?;
            if SPECIAL.contains(&&name[..]) {
                return p.refuse(format!("a macro with the name {name} is not known here"));
            }
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
