//! Filters, tests and functions of Jinja's as transformers' templates see them.

use crate::{pyjson, pymethods, pytext};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

/// The widest indentation of `tojson`; a wider one would only fill the memory.
const MAX_INDENT: i64 = 100;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Adds all of them.
pub fn add(env: &mut Environment<'static>) {
    env.add_function("raise_exception", |message: Value| -> Result<String, Error> { Err(bad(pytext::str(&message))) });
    env.add_function("strftime_now", strftime_now);
    env.add_function("cycler", minijinja_contrib::globals::cycler);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |v: Value| pytext::str(&v));
    env.add_filter("join", join);
    env.add_filter("replace", |v: Value, old: Value, new: Value, count: Option<i64>| {
        pymethods::replace(&pytext::str(&v), &pytext::str(&old), &pytext::str(&new), count)
    });
    env.add_filter("title", |v: Value| title(&pytext::str(&v)));
    env.add_filter("upper", |v: Value| pytext::str(&v).to_uppercase());
    env.add_filter("lower", |v: Value| pytext::str(&v).to_lowercase());
    env.add_filter("trim", |v: Value, chars: Option<String>| trim(&pytext::str(&v), chars.as_deref()));
    env.add_filter("capitalize", |v: Value| capitalize(&pytext::str(&v)));
    env.add_filter("wordcount", |v: Value| word_count(&pytext::str(&v)));
    env.add_filter("truncate", truncate);
    env.add_filter("center", |v: Value, width: Option<usize>| center(&pytext::str(&v), width.unwrap_or(80)));
    env.add_filter("format", |v: Value, args: Rest<Value>| pytext::modulo(&v, &Value::from(args.0)));
    env.add_filter("int", int);
    env.add_filter("float", |v: Value, default: Option<f64>| number(&v).unwrap_or(default.unwrap_or(0.0)));
    env.add_filter("pprint", |v: Value| pytext::repr(&v));
    env.add_test("sequence", |v: Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    env.add_test("iterable", |v: Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined));
    env.add_test("callable", |v: Value| v.kind() == ValueKind::Plain);
    // What rewrite makes of operators.
    env.add_function("__mod", |left: Value, right: Value| pytext::modulo(&left, &right));
    env.add_function("__concat", |left: Value, right: Value| pytext::str(&left) + &pytext::str(&right));
    env.add_function("__value", |v: Value| v);
}

fn strftime_now(format: String) -> Result<String, Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(&format)).map_err(|_| bad(format!("bad date format {format:?}")))?;
    Ok(out)
}

/// `tojson` as Python's json.dumps prints it: Hugging Face replaces Jinja's own HTML-safe one.
fn tojson(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let (args, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let take = |i: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(match args.get(i) {
            Some(v) => Some(v.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        }
        .filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let (ascii, indent, separators, sorted) = (take(0, "ensure_ascii")?, take(1, "indent")?, take(2, "separators")?, take(3, "sort_keys")?);
    kwargs.assert_all_used()?;
    let indent = match &indent {
        None => None,
        Some(v) => match v.as_str() {
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
    style.ensure_ascii = ascii.is_some_and(|v| v.is_true());
    style.sort_keys = sorted.is_some_and(|v| v.is_true());
    let json = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(pyjson::dumps(&json, &style)))
}

fn join(values: Value, sep: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let sep = match sep {
        Some(sep) => pytext::str(&sep),
        None => kwargs.get::<Option<Value>>("d")?.map_or_else(String::new, |v| pytext::str(&v)),
    };
    let attribute: Option<Value> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    if values.is_undefined() {
        return Ok(String::new());
    }
    let mut parts = Vec::new();
    for item in values.try_iter()? {
        let mut item = item;
        if let Some(path) = &attribute {
            match path.as_str() {
                Some(path) => {
                    for name in path.split('.') {
                        item = item.get_attr(name)?;
                    }
                }
                None => item = item.get_item(path)?,
            }
        }
        parts.push(pytext::str(&item));
    }
    Ok(parts.join(&sep))
}

fn trim(s: &str, chars: Option<&str>) -> String {
    match chars {
        Some(set) => s.trim_matches(|c| set.contains(c)).to_owned(),
        None => s.trim_matches(pymethods::space).to_owned(),
    }
}

fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
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

fn center(s: &str, width: usize) -> String {
    let missing = width.min(1 << 20).saturating_sub(s.chars().count());
    let left = missing / 2 + (missing & width & 1);
    format!("{}{s}{}", " ".repeat(left), " ".repeat(missing - left))
}

fn truncate(v: Value, args: Rest<Value>) -> Result<String, Error> {
    let (length, kill, end, leeway, kwargs): (Option<i64>, Option<bool>, Option<String>, Option<i64>, Kwargs) = minijinja::value::from_args(&args.0)?;
    let length = length.or(kwargs.get("length")?).unwrap_or(255);
    let kill = kill.or(kwargs.get("killwords")?).unwrap_or(false);
    let end = end.or(kwargs.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = leeway.or(kwargs.get("leeway")?).unwrap_or(5);
    kwargs.assert_all_used()?;
    let text: Vec<char> = pytext::str(&v).chars().collect();
    let room = length - end.chars().count() as i64;
    if room < 0 || leeway < 0 {
        return Err(bad(format!("truncate: expected length >= {}, got {length}", end.chars().count())));
    }
    if text.len() as i64 <= length + leeway {
        return Ok(text.into_iter().collect());
    }
    let mut cut: String = text[..room as usize].iter().collect();
    if !kill {
        if let Some(at) = cut.rfind(' ') {
            cut.truncate(at);
        }
    }
    Ok(cut + &end)
}

/// A number, or a text that Python would read as one.
fn number(v: &Value) -> Option<f64> {
    match v.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None if v.kind() == ValueKind::Bool => Some(v.is_true() as i32 as f64),
        None => f64::try_from(v.clone()).ok(),
    }
}

fn int(v: Value, default: Option<i64>, base: Option<u32>) -> Value {
    if v.is_integer() {
        return v;
    }
    let text = v.as_str().map(|s| s.trim().replace('_', ""));
    if let Some(n) = text.as_ref().and_then(|t| i64::from_str_radix(t.trim_start_matches("0x"), base.unwrap_or(10).clamp(2, 36)).ok()) {
        return Value::from(n);
    }
    match number(&v) {
        Some(f) if f.is_finite() => Value::from(f.trunc() as i64),
        _ => Value::from(default.unwrap_or(0)),
    }
}
