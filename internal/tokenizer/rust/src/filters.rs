//! Filters, tests and functions of Jinja's as transformers' templates see them.

use crate::{bounds, pyjson, pymethods, pytext};
use minijinja::filters as theirs;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The widest indentation of `tojson`; a wider one would only fill the memory.
const MAX_INDENT: i64 = 100;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Adds a filter that looks at the rendering's bounds before it does anything.
macro_rules! bounded {
    ($env:ident, $name:literal, $filter:expr) => {
        $env.add_filter(concat!("__", $name), $filter);
        $env.add_filter($name, |state: &State, args: Rest<Value>| {
            bounds::check()?;
            if let Some(Ok(number)) = args.get(1).map(|v| i64::try_from(v.clone())) {
                bounds::argument($name, number)?;
            }
            state.apply_filter(concat!("__", $name), &args)
        });
    };
}

/// minijinja's own that go through a list or a text.
fn add_theirs(env: &mut Environment<'static>) {
    bounded!(env, "length", theirs::length);
    bounded!(env, "count", theirs::length);
    bounded!(env, "dictsort", theirs::dictsort);
    bounded!(env, "items", theirs::items);
    bounded!(env, "reverse", theirs::reverse);
    bounded!(env, "split", theirs::split);
    bounded!(env, "lines", theirs::lines);
    bounded!(env, "last", theirs::last);
    bounded!(env, "min", theirs::min);
    bounded!(env, "max", theirs::max);
    bounded!(env, "sort", theirs::sort);
    bounded!(env, "list", theirs::list);
    bounded!(env, "batch", theirs::batch);
    bounded!(env, "slice", theirs::slice);
    bounded!(env, "sum", theirs::sum);
    bounded!(env, "indent", theirs::indent);
    bounded!(env, "select", theirs::select);
    bounded!(env, "reject", theirs::reject);
    bounded!(env, "selectattr", theirs::selectattr);
    bounded!(env, "rejectattr", theirs::rejectattr);
    bounded!(env, "map", theirs::map);
    bounded!(env, "groupby", theirs::groupby);
    bounded!(env, "unique", theirs::unique);
    bounded!(env, "chain", theirs::chain);
    bounded!(env, "zip", theirs::zip);
    env.add_function("range", |lower: isize, upper: Option<isize>, step: Option<isize>| {
        bounds::check()?;
        minijinja::functions::range(lower, upper, step)
    });
}

/// `a + b + c`.
fn plus(operands: Rest<Value>) -> Result<Value, Error> {
    let mut operands = operands.0.into_iter();
    let first = operands.next().unwrap_or_default();
    operands.try_fold(first, add_two)
}

/// `left + right`. What may grow without end is looked at first.
fn add_two(left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        bounds::make(a.len() + b.len())?;
        return Ok(Value::from([a, b].concat()));
    }
    let is_list = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_list(&left) && is_list(&right) {
        // minijinja would keep both and go through them again and again.
        let mut items = Vec::new();
        for item in left.try_iter()?.chain(right.try_iter()?) {
            items.push(item);
            if items.len().is_power_of_two() {
                bounds::make(items.len() * size_of::<Value>())?;
            }
        }
        return Ok(Value::from(items));
    }
    bounds::check()?;
    thread_local! {
        static PLUS: Environment<'static> = Environment::new();
    }
    PLUS.with(|env| env.compile_expression("a + b")?.eval(minijinja::context! { a => left, b => right }))
}

fn concat(left: Value, right: Value) -> Result<String, Error> {
    let (left, right) = (pytext::str(&left), pytext::str(&right));
    bounds::make(left.len() + right.len())?;
    Ok(left + &right)
}

/// Adds all of them.
pub fn add(env: &mut Environment<'static>) {
    add_theirs(env);
    env.add_function("raise_exception", |message: Value| -> Result<String, Error> { Err(bad(pytext::str(&message))) });
    env.add_function("strftime_now", strftime_now);
    env.add_function("cycler", minijinja_contrib::globals::cycler);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    bounded!(env, "tojson", tojson);
    bounded!(env, "string", |v: Value| pytext::str(&v));
    bounded!(env, "join", join);
    bounded!(env, "replace", |v: Value, old: Value, new: Value, count: Option<i64>| {
        pymethods::replace(&pytext::str(&v), &pytext::str(&old), &pytext::str(&new), count)
    });
    bounded!(env, "title", |v: Value| title(&pytext::str(&v)));
    bounded!(env, "upper", |v: Value| pytext::str(&v).to_uppercase());
    bounded!(env, "lower", |v: Value| pytext::str(&v).to_lowercase());
    bounded!(env, "trim", |v: Value, chars: Option<String>| trim(&pytext::str(&v), chars.as_deref()));
    bounded!(env, "capitalize", |v: Value| capitalize(&pytext::str(&v)));
    bounded!(env, "wordcount", |v: Value| word_count(&pytext::str(&v)));
    bounded!(env, "truncate", truncate);
    bounded!(env, "center", |v: Value, width: Option<usize>| center(&pytext::str(&v), width.unwrap_or(80)));
    bounded!(env, "format", |v: Value, args: Rest<Value>| pytext::modulo(&v, &Value::from(args.0)));
    bounded!(env, "int", int);
    bounded!(env, "float", |v: Value, default: Option<f64>| number(&v).unwrap_or(default.unwrap_or(0.0)));
    bounded!(env, "pprint", |v: Value| pytext::repr(&v));
    env.add_test("sequence", |v: Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    env.add_test("iterable", |v: Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined));
    env.add_test("callable", |v: Value| v.kind() == ValueKind::Plain);
    // What rewrite makes of operators.
    env.add_function("__mod", |left: Value, right: Value| pytext::modulo(&left, &right));
    env.add_function("__concat", concat);
    env.add_function("__plus", plus);
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
    bounds::make(parts.iter().map(|part| part.len() + sep.len()).sum())?;
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
