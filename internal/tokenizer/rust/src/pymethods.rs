//! Methods of Python's str and list that chat templates use and `minijinja-contrib` does not have, or has otherwise.

use crate::values::{is_dict, is_tuple, tuple, View};
use crate::{bounds, operators, pyformat, pytext, values};
use minijinja::value::{from_args, Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::collections::HashSet;

/// Calls a method that a value does not have of its own.
pub fn call(_: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    bounds::before(std::slice::from_ref(value))?;
    let made = call_unbounded(value, method, args)?;
    bounds::made(made)
}

fn call_unbounded(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(s) = value.as_str() {
        if let Some(result) = string(s, method, args)? {
            return if value.is_safe() { of_safe(&result, method) } else { Ok(result) };
        }
    }
    match (value.kind(), method) {
        (ValueKind::Map, "items" | "keys" | "values") if is_dict(value) => {
            let () = from_args(args)?;
            bounds::make_list(2 * value.len().unwrap_or(0))?;
            let (keys, of) = (value.try_iter()?, |k: &Value| value.get_item(k).unwrap_or_default());
            Ok(Value::from_object(match method {
                "items" => View { name: "dict_items", items: keys.map(|k| tuple(vec![k.clone(), of(&k)])).collect() },
                "keys" => View { name: "dict_keys", items: keys.collect() },
                _ => View { name: "dict_values", items: keys.map(|k| of(&k)).collect() },
            }))
        }
        (ValueKind::Seq, "index") => {
            let (wanted, start, stop): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let length = value.len().unwrap_or(0) as i64;
            let place = |i: i64| if i < 0 { i.saturating_add(length).max(0) } else { i.min(length) } as usize;
            let (start, stop) = (place(start.unwrap_or(0)), place(stop.unwrap_or(length)));
            let at = value.try_iter()?.take(stop).skip(start).position(|item| operators::equal(&item, &wanted));
            bounds::check()?;
            at.map(|at| Value::from(start + at)).ok_or_else(|| bad(format!("{} is not in list", pytext::repr(&wanted))))
        }
        (ValueKind::Seq, "count") => {
            let (wanted,): (Value,) = from_args(args)?;
            let n = value.try_iter()?.filter(|item| operators::equal(item, &wanted)).count();
            bounds::check()?;
            Ok(Value::from(n))
        }
        (ValueKind::Map, "get") if is_dict(value) => {
            let (wanted, default) = match args {
                [wanted] => (wanted, Value::from(())),
                [wanted, default] if !default.is_kwargs() => (wanted, default.clone()),
                _ => return Err(bad("get expected 1 or 2 arguments")),
            };
            values::key(wanted.clone())?;
            let found = value.get_item(wanted)?;
            // A value that is not defined can be in a dict, too.
            Ok(if found.is_undefined() && !operators::contains(value, wanted)? { default } else { found })
        }
        (ValueKind::Seq | ValueKind::Map, "copy") if is_dict(value) || !is_tuple(value) && value.kind() == ValueKind::Seq => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        _ => Err(bad(format!("'{}' object has no method '{method}'", pytext::type_name(value)))),
    }
}

/// What a method makes of a text that is escaped is escaped, too; some escape their arguments.
fn of_safe(made: &Value, method: &str) -> Result<Value, Error> {
    let safe = |v: Value| v.as_str().map_or(v.clone(), |text| Value::from_safe_string(text.to_owned()));
    match made.kind() {
        _ if matches!(method, "format" | "join" | "replace" | "ljust" | "rjust" | "center") => Err(bad(format!("{method} of an escaped text is not known here"))),
        ValueKind::String => Ok(safe(made.clone())),
        ValueKind::Seq if is_tuple(made) => Ok(tuple(made.try_iter()?.map(safe).collect())),
        ValueKind::Seq => Ok(made.try_iter()?.map(safe).collect()),
        _ => Ok(made.clone()),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Python's white space: Unicode's, and four separators.
pub fn space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Whether the character is one of ten decimal digits: those of scripts that chats are written in.
fn decimal(c: char) -> bool {
    const ZEROS: [u32; 16] = [0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xff10];
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&(c as u32)))
}

fn cased(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase()
}

/// The part of a text between two indexes as Python counts them, and how many characters come before it; None if it ends before it begins,
/// where not even an empty text is.
fn part(s: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, String)> {
    let length = s.chars().count() as i64;
    let place = |i: i64| if i < 0 { i.saturating_add(length).max(0) } else { i } as usize;
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length).min(length)));
    let text = (start <= end).then(|| s.chars().skip(start).take(end - start).collect());
    text.map(|text| (start, text))
}

fn find(s: &str, args: &[Value], last: bool) -> Result<Option<usize>, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((before, text)) = part(s, start, end) else { return Ok(None) };
    let at = if last { text.rfind(what) } else { text.find(what) };
    Ok(at.map(|at| before + text[..at].chars().count()))
}

/// Check, before a text becomes a list of parts.
fn divide(s: &str, parts: impl FnOnce() -> usize) -> Result<(), Error> {
    if s.len() < 1 << 12 {
        return Ok(());
    }
    // Those parts are kept twice for a while.
    bounds::make_list(parts().saturating_mul(2))
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn split(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (sep, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = match sep {
        Some(sep) => Some(sep),
        None => kwargs.get("sep")?,
    };
    let most = match most {
        Some(n) => n,
        None => kwargs.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
    };
    kwargs.assert_all_used()?;
    let pieces = if most < 0 { usize::MAX } else { most as usize + 1 };
    let sep = sep.filter(|v| !v.is_none() && !v.is_undefined());
    if let Some(sep) = &sep {
        let sep = sep.as_str().ok_or_else(|| bad("split: the separator must be a string"))?;
        if sep.is_empty() {
            return Err(bad("empty separator"));
        }
        divide(s, || s.matches(sep).count())?;
        return Ok(list(if from_right {
            let mut parts: Vec<_> = s.rsplitn(pieces, sep).collect();
            parts.reverse();
            parts
        } else {
            s.splitn(pieces, sep).collect()
        }));
    }
    divide(s, || s.split(space).filter(|part| !part.is_empty()).count())?;
    let mut parts = Vec::new();
    // What is left when there are enough pieces keeps the white space at its far end.
    let mut rest = if from_right { s.trim_end_matches(space) } else { s.trim_start_matches(space) };
    while !rest.is_empty() {
        let at = if from_right { rest.rfind(space) } else { rest.find(space) };
        let Some(at) = at.filter(|_| parts.len() + 1 < pieces) else {
            parts.push(rest);
            break;
        };
        if from_right {
            let width = rest[at..].chars().next().map_or(1, char::len_utf8);
            parts.push(&rest[at + width..]);
            rest = rest[..at].trim_end_matches(space);
        } else {
            parts.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(space);
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(list(parts))
}

fn partition(s: &str, sep: &str, last: bool) -> Result<Value, Error> {
    if sep.is_empty() {
        return Err(bad("empty separator"));
    }
    let part = |parts: [&str; 3]| tuple(parts.into_iter().map(Value::from).collect());
    Ok(part(match (if last { s.rfind(sep) } else { s.find(sep) }, last) {
        (Some(at), _) => [&s[..at], sep, &s[at + sep.len()..]],
        (None, false) => [s, "", ""],
        (None, true) => ["", "", s],
    }))
}

/// `str.center`, `.ljust` or `.rjust`.
pub fn pad(s: &str, width: i64, fill: char, method: &str) -> String {
    let missing = width.clamp(0, 1 << 20).saturating_sub(s.chars().count() as i64).max(0) as usize;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // As CPython does: the odd one goes to the left where the width is odd.
        _ => missing / 2 + (missing & width as usize & 1),
    };
    let some = |n: usize| String::from(fill).repeat(n);
    format!("{}{s}{}", some(left), some(missing - left))
}

/// `str.title`: a capital letter after every character that is no letter.
pub fn title(s: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for (at, c) in s.char_indices() {
        out.push_str(&if inside { pytext::lowercase(s, at, c) } else { pytext::titlecase(c) });
        inside = cased(c);
    }
    out
}

/// `str.replace` with at most `count` replacements.
pub fn replace(s: &str, old: &str, new: &str, count: Option<i64>) -> Result<String, Error> {
    let most = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    bounds::make(s.len().saturating_add(s.matches(old).take(most).count().saturating_mul(new.len())))?;
    Ok(s.replacen(old, new, most))
}

pub fn lines(s: &str, keep: bool) -> Result<Vec<&str>, Error> {
    let breaks = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    divide(s, || s.matches(breaks).count())?;
    let mut out = Vec::new();
    let mut rest = s;
    while let Some(at) = rest.find(breaks) {
        let width = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        out.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    Ok(out)
}

fn no_arguments(args: &[Value], text: String) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(text))
}

fn string(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let all = |test: fn(char) -> bool| !s.is_empty() && s.chars().all(test);
    let strip = |left: bool, right: bool| -> Result<Value, Error> {
        let (chars,): (Option<Value>,) = from_args(args)?;
        let chars: Option<HashSet<char>> = chars.as_ref().and_then(Value::as_str).map(|c| c.chars().collect());
        let drop = |c: char| chars.as_ref().map_or_else(|| space(c), |set| set.contains(&c));
        let text = if left { s.trim_start_matches(drop) } else { s };
        Ok(Value::from(if right { text.trim_end_matches(drop) } else { text }))
    };
    // None is a place that is not given, or white space; for what else nothing is none.
    let places = ["find", "rfind", "index", "rindex", "count", "startswith", "endswith", "split", "rsplit", "strip", "lstrip", "rstrip"];
    let wrong = |v: &Value| v.is_undefined() || v.is_none() && !places.contains(&method);
    if !matches!(method, "format" | "join") && args.iter().any(wrong) {
        return Err(bad(format!("{method}: an argument cannot be none or undefined")));
    }
    Ok(Some(match method {
        "strip" => strip(true, true)?,
        "lstrip" => strip(true, false)?,
        "rstrip" => strip(false, true)?,
        "split" => split(s, args, false)?,
        "rsplit" => split(s, args, true)?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            list(lines(s, keep)?)
        }
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            partition(s, sep, method == "rpartition")?
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(s.strip_prefix(prefix).unwrap_or(s))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(s.strip_suffix(suffix).unwrap_or(s))
        }
        "replace" => {
            let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = count.or(kwargs.get("count")?);
            kwargs.assert_all_used()?;
            Value::from(replace(s, old, new, count)?)
        }
        "find" | "rfind" => find(s, args, method == "rfind")?.map_or(Value::from(-1), Value::from),
        "index" | "rindex" => Value::from(find(s, args, method == "rindex")?.ok_or_else(|| bad("substring not found"))?),
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let Some((_, text)) = part(s, start, end) else { return Ok(Some(Value::from(0))) };
            Value::from(if what.is_empty() { text.chars().count() + 1 } else { text.matches(what).count() })
        }
        "startswith" | "endswith" => {
            let (what, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let text = part(s, start, end).map(|(_, text)| text);
            let test = |what: &Value| -> Result<bool, Error> {
                let what = what.as_str().ok_or_else(|| bad(format!("{method}: a str or a tuple of str is needed, not {}", pytext::type_name(what))))?;
                Ok(text.as_ref().is_some_and(|text| if method == "startswith" { text.starts_with(what) } else { text.ends_with(what) }))
            };
            let mut found = false;
            match what.kind() {
                ValueKind::Seq => {
                    for what in what.try_iter()? {
                        found = found || test(&what)?;
                    }
                }
                _ => found = test(&what)?,
            }
            Value::from(found)
        }
        "format" => Value::from(pyformat::format(s, args)?),
        "expandtabs" => {
            let (width, kwargs): (Option<i64>, Kwargs) = from_args(args)?;
            let width = width.or(kwargs.get("tabsize")?).unwrap_or(8).clamp(0, 1 << 10) as usize;
            kwargs.assert_all_used()?;
            let (mut out, mut column) = (String::new(), 0);
            for c in s.chars() {
                match c {
                    '\t' if width == 0 => {}
                    '\t' => {
                        let n = width - column % width;
                        if out.len() > bounds::TEXT {
                            bounds::grow(out.len(), n)?;
                        }
                        out.push_str(&" ".repeat(n));
                        column += n;
                    }
                    '\n' | '\r' => {
                        out.push(c);
                        column = 0;
                    }
                    c => {
                        out.push(c);
                        column += 1;
                    }
                }
            }
            Value::from(out)
        }
        "isascii" => Value::from(s.is_ascii()),
        "isprintable" => Value::from(s.chars().all(pytext::printable)),
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = if s.starts_with(['+', '-']) { s.split_at(1) } else { ("", s) };
            let missing = width.clamp(0, 1 << 20).saturating_sub(s.chars().count() as i64).max(0);
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing as usize)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let mut fill = fill.unwrap_or(" ").chars();
            match (fill.next(), fill.next()) {
                (Some(fill), None) => Value::from(pad(s, width, fill, method)),
                _ => return Err(bad("the fill character must be exactly one character long")),
            }
        }
        "upper" => no_arguments(args, s.to_uppercase())?,
        "lower" => no_arguments(args, s.to_lowercase())?,
        "title" => Value::from(title(s)),
        "capitalize" => Value::from(pytext::capitalize(s)),
        "swapcase" => {
            let swap = |(at, c): (usize, char)| -> String { if c.is_uppercase() { pytext::lowercase(s, at, c) } else { c.to_uppercase().collect() } };
            Value::from(s.char_indices().map(swap).collect::<String>())
        }
        "islower" => Value::from(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)),
        "isupper" => Value::from(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)),
        "istitle" => Value::from(s.chars().any(cased) && title(s) == s),
        "isspace" => Value::from(all(space)),
        "isalpha" => Value::from(all(char::is_alphabetic)),
        "isalnum" => Value::from(all(char::is_alphanumeric)),
        "isdecimal" => Value::from(all(|c| c.is_ascii_digit() || c.is_numeric() && decimal(c))),
        "isnumeric" => Value::from(all(char::is_numeric)),
        // Digits and superscript ones; fractions and the numbers of other scripts are numeric only.
        "isdigit" => Value::from(all(|c| c.is_ascii_digit() || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉') || c.is_numeric() && decimal(c))),
        "isidentifier" => {
            let word = s.chars().all(|c| c.is_alphanumeric() || c == '_');
            Value::from(word && !s.is_empty() && !s.starts_with(|c: char| c.is_numeric()))
        }
        "join" => {
            let (values,): (Value,) = from_args(args)?;
            let (mut parts, mut length) = (Vec::new(), 0);
            for (i, item) in values.try_iter()?.enumerate() {
                let text = item.as_str().ok_or_else(|| bad(format!("sequence item {i}: expected str instance, {} found", item.kind())))?;
                bounds::grow(length, text.len() + s.len())?;
                length += text.len() + s.len();
                parts.push(text.to_owned());
            }
            Value::from(parts.join(s))
        }
        _ => return Ok(None),
    }))
}
