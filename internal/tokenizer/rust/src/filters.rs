//! Jinja's filters as transformers' templates see them. Each gets all of its arguments; see signatures.rs.

use crate::{bounds, lists, pyjson, pymethods, pypercent, pytext, select, values};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::collections::HashSet;

/// The widest indentation of `tojson`; a wider one would only fill the memory.
const MAX_INDENT: i64 = 100;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Adds all of them.
pub fn add(env: &mut Environment<'static>) {
    bounds::filter(env, "tojson", tojson);
    bounds::filter(env, "string", |v: Value| pytext::like(&v, pytext::str(&v)));
    bounds::filter(env, "join", join);
    bounds::filter(env, "attr", |v: Value, name: String| values::attribute_only(&v, &name));
    for name in ["d", "default"] {
        bounds::filter(env, name, |v: Value, default: Value, boolean: bool| if v.is_undefined() || boolean && !v.is_true() { default } else { v });
    }
    bounds::filter(env, "replace", |v: Value, old: Value, new: Value, count: Value| {
        pymethods::replace(&pytext::str(&v), &pytext::str(&old), &pytext::str(&new), i64::try_from(count).ok())
    });
    bounds::filter(env, "title", |v: Value| title(&pytext::str(&v)));
    bounds::filter(env, "upper", |v: Value| pytext::like(&v, pytext::str(&v).to_uppercase()));
    bounds::filter(env, "lower", |v: Value| pytext::like(&v, pytext::str(&v).to_lowercase()));
    bounds::filter(env, "trim", |v: Value, chars: Value| pytext::like(&v, trim(&pytext::str(&v), chars.as_str())));
    bounds::filter(env, "capitalize", |v: Value| pytext::like(&v, pytext::capitalize(&pytext::str(&v))));
    bounds::filter(env, "wordcount", |v: Value| word_count(&pytext::str(&v)));
    bounds::filter(env, "truncate", truncate);
    bounds::filter(env, "center", |v: Value, width: i64| pytext::like(&v, pymethods::pad(&pytext::str(&v), width, ' ', "center")));
    bounds::filter(env, "format", |v: Value, args: Rest<Value>| -> Result<Value, Error> {
        let (args, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
        let named = kwargs.args().map(|name| Ok((name.to_owned(), kwargs.get::<Value>(name)?))).collect::<Result<Vec<_>, Error>>()?;
        if !args.is_empty() && !named.is_empty() {
            return Err(bad("can't handle positional and keyword arguments at the same time"));
        }
        let values = if named.is_empty() { values::tuple(args.to_vec()) } else { named.into_iter().collect() };
        pypercent::modulo(&pytext::like(&v, pytext::str(&v)), &values)
    });
    bounds::filter(env, "int", int);
    bounds::filter(env, "float", |v: Value, default: Value| -> Result<Value, Error> {
        Ok(number(&v)?.map_or_else(|| if default.is_undefined() { Value::from(0.0) } else { default }, Value::from))
    });
    bounds::filter(env, "pprint", |v: Value| pytext::repr(&v));
    bounds::filter(env, "abs", |v: Value| -> Result<Value, Error> {
        match v.kind() {
            ValueKind::Bool => Ok(Value::from(i32::from(v.is_true()))),
            ValueKind::Number => minijinja::filters::abs(v),
            _ => Err(bad(format!("bad operand type for abs(): '{}'", pytext::type_name(&v)))),
        }
    });
    bounds::filter(env, "round", round);
    bounds::filter(env, "indent", indent);
    for name in ["e", "escape"] {
        bounds::filter(env, name, |v: Value| if v.is_safe() { v } else { Value::from_safe_string(pytext::escape(&pytext::str(&v))) });
    }
    bounds::filter(env, "forceescape", |v: Value| Value::from_safe_string(pytext::escape(&pytext::str(&v))));
    bounds::filter(env, "safe", |v: Value| Value::from_safe_string(pytext::str(&v)));
    bounds::filter(env, "striptags", |v: Value| strip_tags(&pytext::str(&v)));
    bounds::filter(env, "urlencode", |v: Value| url_encode(&pytext::str(&v)));
    lists::add(env);
    select::add(env);
}

/// Python's round, half to even; `ceil` and `floor` by way of a power of ten, as Jinja does.
fn round(v: Value, precision: i64, method: String) -> Result<Value, Error> {
    let precision = precision.clamp(-400, 400) as i32;
    let f = match v.kind() {
        ValueKind::Bool => f64::from(i32::from(v.is_true())),
        ValueKind::Number => f64::try_from(v.clone())?,
        _ => return Err(bad(format!("type {} has no rounding", pytext::type_name(&v)))),
    };
    let power = 10f64.powi(precision);
    if method != "common" && (power == 0.0 || (power * f).is_infinite()) {
        return Err(bad("int too large to convert to float"));
    }
    Ok(match &method[..] {
        "ceil" => Value::from((f * power).ceil() / power),
        "floor" => Value::from((f * power).floor() / power),
        "common" if v.is_integer() || v.kind() == ValueKind::Bool => match i64::try_from(v) {
            Ok(n) if precision < 0 => {
                let unit = 10i64.checked_pow(precision.unsigned_abs()).unwrap_or(i64::MAX);
                let (low, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
                let up = rest > unit - rest || rest == unit - rest && low % 2 != 0;
                Value::from((low + i64::from(up)).saturating_mul(unit))
            }
            Ok(n) => Value::from(n),
            Err(e) => return Err(e),
        },
        "common" if precision == 0 => Value::from(f.round_ties_even()),
        "common" if precision > 0 => Value::from(format!("{f:.*}", precision as usize).parse::<f64>().unwrap_or(f)),
        "common" => Value::from((f * power).round_ties_even() / power),
        _ => return Err(bad("method must be common, ceil or floor")),
    })
}

fn indent(v: Value, width: Value, first: bool, blank: bool) -> Result<Value, Error> {
    let text = match v.as_str() {
        Some(text) => text.to_owned(),
        None => return Err(bad(format!("indent: a text is needed, not {}", pytext::type_name(&v)))),
    };
    let indention = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(i64::try_from(width)?.clamp(0, 1 << 16) as usize),
    };
    let text = text + "\n";
    let mut out = if first { indention.clone() } else { String::new() };
    for (i, line) in pymethods::lines(&text, false)?.into_iter().enumerate() {
        bounds::grow(out.len(), line.len() + indention.len())?;
        if i > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(pytext::like(&v, out))
}

fn strip_tags(s: &str) -> Result<String, Error> {
    let (mut text, mut rest) = (String::with_capacity(s.len()), s);
    while let Some(start) = rest.find('<') {
        let (inside, close) = if rest[start..].starts_with("<!--") { (4, "-->") } else { (0, ">") };
        // What does not end is no tag.
        let Some(n) = rest[start + inside..].find(close) else { break };
        text.push_str(&rest[..start]);
        rest = &rest[start + inside + n + close.len()..];
    }
    text.push_str(rest);
    let words: Vec<&str> = text.split(pymethods::space).filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    let (mut out, mut rest) = (String::with_capacity(text.len()), &text[..]);
    const KNOWN: [(&str, char); 6] = [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&#34;", '"'), ("&quot;", '"'), ("&#39;", '\'')];
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match KNOWN.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, c)) => {
                out.push(*c);
                rest = &rest[name.len()..];
            }
            None if rest[1..].starts_with(|c: char| c == '#' || c.is_ascii_alphanumeric()) => return Err(bad("striptags: this HTML entity is not known here")),
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    Ok(out + rest)
}

fn url_encode(s: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for b in s.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => out.push(b.into()),
            b => write!(out, "%{b:02X}").unwrap_or_default(),
        }
    }
    out
}

/// `tojson` as Python's json.dumps prints it: Hugging Face replaces Jinja's own HTML-safe one.
fn tojson(value: Value, ascii: bool, indent: Value, separators: Value, sort_keys: bool) -> Result<Value, Error> {
    let indent = Some(indent).filter(|v| !v.is_none());
    let separators = Some(separators).filter(|v| !v.is_none());
    let indent = match &indent {
        None => None,
        Some(v) => match v.as_str() {
            Some(text) if text.len() > MAX_INDENT as usize => return Err(bad(&format!("tojson: indent is more than {MAX_INDENT}"))),
            Some(text) => Some(text.to_owned()),
            None => {
                let width = i64::try_from(v.clone())?.max(0);
                if width > MAX_INDENT {
                    return Err(bad(&format!("tojson: indent is more than {MAX_INDENT}")));
                }
                Some(" ".repeat(width as usize))
            }
        },
    };
    let mut style = pyjson::Style::new(indent);
    if let Some(pair) = separators {
        let pair: Vec<Value> = pair.try_iter()?.collect();
        let text = |i: usize| pair.get(i).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| bad("tojson: separators must be two strings"));
        (style.item, style.key) = (text(0)?, text(1)?);
    }
    style.ensure_ascii = ascii;
    style.sort_keys = sort_keys;
    let json = json(&value, 0)?;
    let text = pyjson::dumps_until(&json, &style, bounds::TEXT);
    bounds::make(text.len())?;
    Ok(Value::from(text))
}

/// A value as json.dumps takes it: keys become texts, and what Python's json does not know is refused.
fn json(v: &Value, depth: usize) -> Result<serde_json::Value, Error> {
    if depth > 500 {
        return Err(bad("tojson: nested too deep"));
    }
    bounds::make(v.as_str().map_or(size_of::<serde_json::Value>(), str::len))?;
    Ok(match v.kind() {
        ValueKind::None => serde_json::Value::Null,
        ValueKind::Bool => v.is_true().into(),
        ValueKind::String => v.as_str().unwrap_or_default().into(),
        ValueKind::Number => serde_json::to_value(v).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?,
        ValueKind::Seq | ValueKind::Iterable if v.len().is_some() && v.downcast_object_ref::<values::View>().is_none() => {
            v.try_iter()?.map(|item| json(&item, depth + 1)).collect::<Result<Vec<_>, _>>()?.into()
        }
        ValueKind::Map if values::is_dict(v) => {
            let mut out = serde_json::Map::new();
            for key in v.try_iter()? {
                let name = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                    ValueKind::None | ValueKind::Bool | ValueKind::Number => pyjson::dumps(&json(&key, depth)?, &pyjson::Style::new(None)),
                    _ => return Err(bad(format!("keys must be str, int, float, bool or None, not {}", pytext::type_name(&key)))),
                };
                out.insert(name, json(&v.get_item(&key)?, depth + 1)?);
            }
            out.into()
        }
        _ => return Err(bad(format!("Object of type {} is not JSON serializable", pytext::type_name(v)))),
    })
}

fn join(values: Value, sep: Value, path: Value) -> Result<String, Error> {
    let sep = pytext::str(&sep);
    let (mut parts, mut length) = (Vec::new(), 0);
    for item in lists::list(&values)? {
        let part = pytext::str(&lists::named(&item, &path)?);
        bounds::grow(length, part.len() + sep.len())?;
        length += part.len() + sep.len();
        parts.push(part);
    }
    Ok(parts.join(&sep))
}

fn trim(s: &str, chars: Option<&str>) -> String {
    match chars {
        Some(set) => {
            let set: HashSet<char> = set.chars().collect();
            s.trim_matches(|c| set.contains(&c)).to_owned()
        }
        None => s.trim_matches(pymethods::space).to_owned(),
    }
}

/// Jinja's own: a capital after white space and some punctuation.
fn title(s: &str) -> String {
    let mut out = String::new();
    let mut first = true;
    for c in s.chars() {
        if first {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        first = c.is_whitespace() || "-([{<".contains(c);
    }
    out
}

fn word_count(s: &str) -> usize {
    s.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).count()
}

fn truncate(v: Value, length: i64, kill: bool, end: String, leeway: Value) -> Result<Value, Error> {
    let leeway = i64::try_from(leeway).unwrap_or(5);
    let text: Vec<char> = pytext::str(&v).chars().collect();
    let room = length - end.chars().count() as i64;
    if room < 0 || leeway < 0 {
        return Err(bad(format!("truncate: expected length >= {}, got {length}", end.chars().count())));
    }
    if text.len() as i64 <= length + leeway {
        return Ok(pytext::like(&v, text.into_iter().collect::<String>()));
    }
    let mut cut: String = text[..room as usize].iter().collect();
    if !kill {
        if let Some(at) = cut.rfind(' ') {
            cut.truncate(at);
        }
    }
    Ok(pytext::like(&v, cut + &if v.is_safe() { pytext::escape(&end) } else { end }))
}

/// A number, or a text that Python would read as one.
fn number(v: &Value) -> Result<Option<f64>, Error> {
    Ok(match v.kind() {
        ValueKind::String => v.as_str().and_then(pytext::parse_float),
        ValueKind::Bool => Some(f64::from(i32::from(v.is_true()))),
        ValueKind::Number => f64::try_from(v.clone()).ok(),
        ValueKind::Undefined => return Err(bad("a value is undefined")),
        _ => None,
    })
}

fn int(v: Value, default: Value, base: Value) -> Result<Value, Error> {
    let text = match v.kind() {
        ValueKind::Number if v.is_integer() => return Ok(v),
        ValueKind::String => v.as_str().unwrap_or_default(),
        _ => "",
    };
    if let Some(n) = values::whole(&base).and_then(|base| u32::try_from(base).ok()).and_then(|base| whole(text.trim_matches(pymethods::space), base)) {
        return Ok(Value::from(n));
    }
    Ok(match number(&v)? {
        Some(f) if f.is_finite() => Value::from(f.trunc() as i64),
        _ => default,
    })
}

/// Python's `int(text, base)`; base 0 goes by the prefix.
fn whole(text: &str, base: u32) -> Option<i64> {
    let text = &pytext::without_underscores(text)?.to_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, of)| digits.starts_with(prefix) && (base == 0 || base == *of));
    let (digits, base) = match prefixed {
        Some((prefix, of)) => (&digits[prefix.len()..], of),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}
