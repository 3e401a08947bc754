//! Values as Python prints and formats them.

use crate::pyjson::float_repr;
use crate::bounds;
use crate::sequences::Range;
use crate::values::{is_dict, is_macro, is_tuple, View};
use minijinja::{value::ValueKind, Value};
use std::fmt::Write;

/// `str(value)`.
pub fn str(v: &Value) -> String {
    match v.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => v.as_str().map_or_else(|| v.to_string(), Into::into),
        _ => repr(v),
    }
}

/// `repr(value)`. When the rendering is to end it is not whole.
pub fn repr(v: &Value) -> String {
    if v.as_object().is_none() {
        return represented(v);
    }
    let Some(_level) = bounds::deeper() else { return String::new() };
    let text = represented(v);
    // What is in it was counted, too: values may contain others very many times.
    if bounds::make(text.len()).is_err() {
        return String::new();
    }
    text
}

fn represented(v: &Value) -> String {
    match v.kind() {
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::None => "None".into(),
        ValueKind::Number if !v.is_integer() => f64::try_from(v.clone()).map_or_else(|_| v.to_string(), python_float),
        ValueKind::String if v.is_safe() => format!("Markup({})", quoted(v.as_str().unwrap_or_default())),
        ValueKind::String => quoted(v.as_str().unwrap_or_default()),
        ValueKind::Iterable if v.downcast_object_ref::<View>().is_some() => v.to_string(),
        ValueKind::Seq if v.downcast_object_ref::<Range>().is_some() => v.to_string(),
        ValueKind::Iterable | ValueKind::Plain => address(),
        ValueKind::Map if !is_dict(v) => object(v),
        ValueKind::Seq => match v.try_iter() {
            Ok(items) if is_tuple(v) => match &items.map(|item| repr(&item)).collect::<Vec<_>>()[..] {
                [one] => format!("({one},)"),
                items => format!("({})", items.join(", ")),
            },
            Ok(items) => list(items),
            Err(_) => v.to_string(),
        },
        ValueKind::Map => {
            let Ok(keys) = v.try_iter() else { return v.to_string() };
            let entries = keys.map(|k| format!("{}: {}", repr(&k), repr(&v.get_item(&k).unwrap_or_default())));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        _ => v.to_string(),
    }
}

/// Python prints where these are in memory, which is no text of a prompt.
fn address() -> String {
    bounds::fail("it prints a function or what can be gone through once");
    String::new()
}

/// What is not a value of Python's, but of Jinja.
fn object(v: &Value) -> String {
    let name = v.as_object().map_or("", |o| o.type_name());
    let part = |name: &str| v.get_attr(name).unwrap_or_default();
    if is_macro(v) {
        let name = part("name");
        // That of a call block has no name in Jinja.
        return if name.as_str() == Some("caller") { "<Macro anonymous>".into() } else { format!("<Macro {}>", repr(&name)) };
    }
    if name.ends_with("::Loop") {
        return format!("<LoopContext {}/{}>", part("index"), part("length"));
    }
    if name.contains("Namespace") {
        let Ok(keys) = v.try_iter() else { return address() };
        let entries: Vec<String> = keys.map(|k| format!("{}: {}", repr(&k), repr(&v.get_item(&k).unwrap_or_default()))).collect();
        if entries.len() > 1 {
            bounds::fail("it prints a namespace, whose order is not known here");
        }
        return format!("<Namespace {{{}}}>", entries.join(", "));
    }
    address()
}

/// The items of a list as it prints.
pub fn list(items: impl Iterator<Item = impl std::borrow::Borrow<Value>>) -> String {
    format!("[{}]", items.map(|item| repr(item.borrow())).collect::<Vec<_>>().join(", "))
}

/// The name of a value's type in messages.
pub fn type_name(v: &Value) -> &'static str {
    match v.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if v.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Seq if is_tuple(v) => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        _ => "object",
    }
}

/// A text that was made of another one: escaped, or marked as safe, if that was.
pub fn like(of: &Value, text: impl Into<String>) -> Value {
    if of.is_safe() {
        Value::from_safe_string(text.into())
    } else {
        Value::from(text.into())
    }
}

/// A text with HTML's marks escaped, as Markup writes them.
pub fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `str.capitalize`.
pub fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    let first = chars.next().map(titlecase).unwrap_or_default();
    first + &lower_after(s, chars.as_str())
}

/// The end of a text in small letters, which go by what comes before.
fn lower_after(whole: &str, end: &str) -> String {
    let before = whole[..whole.len() - end.len()].to_lowercase().len();
    whole.to_lowercase().split_off(before)
}

/// A small letter in a text, which for a sigma goes by whether a word ends there.
pub fn lowercase(s: &str, at: usize, c: char) -> String {
    let ignored = |c: &char| matches!(c, '\'' | '.' | ':' | '^' | '`' | '\u{a8}' | '\u{ad}' | '\u{b7}' | '\u{2019}' | '\u{300}'..='\u{36f}');
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_lowercase() || c.is_uppercase());
    if c == 'Σ' && letter(s[..at].chars().rev().find(|c| !ignored(c))) && !letter(s[at + c.len_utf8()..].chars().find(|c| !ignored(c))) {
        return "ς".into();
    }
    c.to_lowercase().collect()
}

/// A letter as it begins a title.
pub fn titlecase(c: char) -> String {
    let n = c as u32;
    let single = match n {
        0x1c4..=0x1c6 => '\u{1c5}',
        0x1c7..=0x1c9 => '\u{1c8}',
        0x1ca..=0x1cc => '\u{1cb}',
        0x1f1..=0x1f3 => '\u{1f2}',
        0x10d0..=0x10ff => c, // Georgian
        0x1f80..=0x1faf => char::from_u32(n | 8).unwrap_or(c),
        0x1fb3 | 0x1fbc => '\u{1fbc}',
        0x1fc3 | 0x1fcc => '\u{1fcc}',
        0x1ff3 | 0x1ffc => '\u{1ffc}',
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().unwrap_or(c);
            let rest: String = upper.flat_map(char::to_lowercase).collect();
            let rest = if (0x1f80..0x2000).contains(&n) { rest.replace('\u{3b9}', "\u{345}") } else { rest };
            // The modifier letter apostrophe and combining marks have no case.
            return format!("{first}{}", if matches!(n, 0x149) { c.to_uppercase().skip(1).collect() } else { rest });
        }
    };
    single.into()
}

/// Digits without the underscores that Python allows between them; None where it does not.
pub fn without_underscores(s: &str) -> Option<String> {
    let bytes = s.as_bytes();
    let between = |i: usize| i > 0 && bytes[i - 1].is_ascii_alphanumeric() && bytes.get(i + 1).is_some_and(u8::is_ascii_alphanumeric);
    let allowed = bytes.iter().enumerate().all(|(i, b)| *b != b'_' || between(i));
    allowed.then(|| s.replace('_', ""))
}

/// `float(text)`.
pub fn parse_float(s: &str) -> Option<f64> {
    without_underscores(s.trim_matches(crate::pymethods::space))?.parse().ok()
}

pub fn python_float(f: f64) -> String {
    match f {
        f if f.is_nan() => "nan".into(),
        f if f.is_infinite() => if f > 0.0 { "inf" } else { "-inf" }.into(),
        f => float_repr(f),
    }
}

/// What Python prints of itself in a quoted text: no controls, no spaces but one, nothing for private use.
pub fn printable(c: char) -> bool {
    !matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{1680}' | '\u{180e}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3000}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e00ff}' | '\u{e01f0}'..='\u{10ffff}')
}

fn quoted(s: &str) -> String {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in s.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if printable(c) => out.push(c),
            c => match c as u32 {
                n @ 0..=0xff => write!(out, "\\x{n:02x}").unwrap(),
                n @ 0x100..=0xffff => write!(out, "\\u{n:04x}").unwrap(),
                n => write!(out, "\\U{n:08x}").unwrap(),
            },
        }
    }
    out.push(quote);
    out
}
