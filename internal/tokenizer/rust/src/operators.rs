//! Operators as Python computes them. expression.rs writes calls of these functions.

use crate::sequences::Range;
use crate::values::{is_tuple, tuple};
use crate::{bounds, lists, pypercent, pytext, values};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::cmp::Ordering;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    env.add_function("__value", |v: Value| v);
    env.add_function("__float", |text: String| text.parse::<f64>().map_err(|_| bad(format!("{text} is no number"))));
    env.add_function("__tuple", |items: Rest<Value>| tuple(items.0));
    env.add_function("__attribute", values::attribute);
    env.add_function("__slice", slice);
    env.add_function("__key", values::key);
    env.add_function("__item", |v: Value, key: Value| values::item(&v, &key));
    env.add_function("__seen", values::seen);
    env.add_function("__keep", values::keep);
    env.add_function("__shallow", values::shallow);
    // The text that stands in a macro, each time it is called.
    env.add_function("__text", |bytes: usize| bounds::make(bytes));
    // What a loop goes through: nothing is not taken for an empty list, and a text has as many items as characters. The number is how
    // much text stands in the loop.
    env.add_function("__iterate", |v: Value, bytes: usize| match v.as_str() {
        Some(text) => {
            bounds::make_list(text.len())?;
            Ok(Value::from_object(bounds::Steps(text.chars().map(Value::from).collect(), bytes)))
        }
        None => {
            lists::iterate(&v)?;
            Ok(Value::from_object(bounds::Steps(v, bytes)))
        }
    });
    env.add_function("__sign", |sign: &str, v: Value| match number(&v) {
        Some(Number::Whole(n)) if sign == "-" => n.checked_neg().map(whole).ok_or_else(too_large),
        Some(Number::Whole(n)) => Ok(whole(n)),
        Some(Number::Float(f)) => Ok(Value::from(if sign == "-" { -f } else { f })),
        None => Err(bad(format!("bad operand type for unary {sign}: '{}'", pytext::type_name(&v)))),
    });
    env.add_function("__compute", |parts: Rest<Value>| -> Result<Value, Error> {
        let mut value = parts.first().cloned().unwrap_or_default();
        for pair in parts[1..].chunks(2) {
            value = compute(&value, pair[0].as_str().unwrap_or_default(), &pair[1])?;
        }
        Ok(value)
    });
    env.add_function("__compare", |parts: Rest<Value>| -> Result<bool, Error> {
        for i in (1..parts.len()).step_by(2) {
            if !compare(&parts[i - 1], parts[i].as_str().unwrap_or_default(), &parts[i + 1])? {
                return Ok(false);
            }
        }
        Ok(true)
    });
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Float(f64),
}

/// A number, as which a boolean counts.
fn number(v: &Value) -> Option<Number> {
    match v.kind() {
        ValueKind::Bool => Some(Number::Whole(v.is_true().into())),
        ValueKind::Number if v.is_integer() => i128::try_from(v.clone()).ok().map(Number::Whole),
        ValueKind::Number => f64::try_from(v.clone()).ok().map(Number::Float),
        _ => None,
    }
}

fn float(n: Number) -> f64 {
    match n {
        Number::Whole(n) => n as f64,
        Number::Float(f) => f,
    }
}

fn whole(n: i128) -> Value {
    i64::try_from(n).map_or_else(|_| Value::from(n), Value::from)
}

fn too_large() -> Error {
    bad("a whole number of more than 127 bits")
}

/// A number as a text that is the same for equal ones; None for anything else.
pub fn canonical(v: &Value) -> Option<String> {
    Some(match number(v)? {
        Number::Float(f) if f.fract() == 0.0 && f.abs() < 1e30 => (f as i128).to_string(),
        Number::Whole(n) => n.to_string(),
        Number::Float(f) => f.to_string(),
    })
}

fn is_range(v: &Value) -> bool {
    v.downcast_object_ref::<Range>().is_some()
}

/// The items of a list or a tuple; None for anything else.
fn items(v: &Value) -> Option<Vec<Value>> {
    match v.kind() {
        ValueKind::Seq if !is_range(v) => v.try_iter().ok().map(Iterator::collect),
        _ => None,
    }
}

fn same_sequence(like: &Value, items: Vec<Value>) -> Value {
    if is_tuple(like) {
        tuple(items)
    } else {
        Value::from(items)
    }
}

pub fn compute(a: &Value, operator: &str, b: &Value) -> Result<Value, Error> {
    bounds::check()?;
    if operator == "~" {
        let (a, b) = (pytext::str(a), pytext::str(b));
        bounds::make(a.len() + b.len())?;
        return Ok(Value::from(a + &b));
    }
    if operator == "%" {
        return pypercent::modulo(a, b);
    }
    let unsupported = || bad(format!("unsupported operand types for {operator}: '{}' and '{}'", pytext::type_name(a), pytext::type_name(b)));
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return arithmetic(x, operator, y);
    }
    if operator == "+" {
        if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
            bounds::make(x.len() + y.len())?;
            // What was escaped, or marked as safe, escapes what is put to it.
            if !a.is_safe() && !b.is_safe() {
                return Ok(Value::from(format!("{x}{y}")));
            }
            let part = |v: &Value, text: &str| if v.is_safe() { text.to_owned() } else { pytext::escape(text) };
            return Ok(Value::from_safe_string(part(a, x) + &part(b, y)));
        }
        if let (Some(mut x), Some(y)) = (items(a), items(b)) {
            if is_tuple(a) == is_tuple(b) {
                bounds::make_list(x.len() + y.len())?;
                x.extend(y);
                return Ok(same_sequence(a, x));
            }
        }
    }
    if operator == "*" {
        for (many, times) in [(a, b), (b, a)] {
            let Some(Number::Whole(times)) = number(times) else { continue };
            let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
            if let Some(text) = many.as_str() {
                bounds::make(text.len().saturating_mul(times))?;
                return Ok(pytext::like(many, text.repeat(times)));
            }
            if let Some(list) = items(many) {
                bounds::make_list(list.len().saturating_mul(times))?;
                let length = list.len() * times;
                return Ok(same_sequence(many, list.into_iter().cycle().take(length).collect()));
            }
        }
    }
    Err(unsupported())
}

fn arithmetic(x: Number, operator: &str, y: Number) -> Result<Value, Error> {
    if let (Number::Whole(a), Number::Whole(b)) = (x, y) {
        let result = match operator {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "//" if b == 0 => return Err(bad("integer division or modulo by zero")),
            "//" => a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q }),
            "**" if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            _ => return float_arithmetic(a as f64, operator, b as f64),
        };
        return result.map(whole).ok_or_else(too_large);
    }
    float_arithmetic(float(x), operator, float(y))
}

fn float_arithmetic(a: f64, operator: &str, b: f64) -> Result<Value, Error> {
    if matches!(operator, "/" | "//") && b == 0.0 {
        return Err(bad("division by zero"));
    }
    Ok(Value::from(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "//" => floor_divide(a, b),
        _ if a == 0.0 && b < 0.0 => return Err(bad("0.0 cannot be raised to a negative power")),
        _ if a < 0.0 && b.fract() != 0.0 => return Err(bad("a negative number to a power that is no whole number")),
        _ => a.powf(b),
    }))
}

/// As CPython divides: by way of the remainder, so that 1.0 // 0.1 is 9.
fn floor_divide(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    let exact = (a - remainder) / b - if remainder != 0.0 && (b < 0.0) != (remainder < 0.0) { 1.0 } else { 0.0 };
    if exact == 0.0 {
        return 0f64.copysign(a / b);
    }
    let floor = exact.floor();
    floor + if exact - floor > 0.5 { 1.0 } else { 0.0 }
}

/// `a == b`: numbers by value, a tuple is no list. When the rendering is to end it says no.
pub fn equal(a: &Value, b: &Value) -> bool {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        return x == y;
    }
    let Some(_level) = bounds::deeper() else { return false };
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return match (x, y) {
            (Number::Whole(x), Number::Whole(y)) => x == y,
            (x, y) => float(x) == float(y),
        };
    }
    if let (Some(x), Some(y)) = (items(a), items(b)) {
        return is_tuple(a) == is_tuple(b) && x.len() == y.len() && x.iter().zip(&y).all(|(x, y)| equal(x, y));
    }
    if values::is_dict(a) && values::is_dict(b) {
        let same = |k: Value| matches!((a.get_item(&k), b.get_item(&k)), (Ok(x), Ok(y)) if equal(&x, &y));
        return a.len() == b.len() && a.try_iter().is_ok_and(|mut keys| keys.all(same));
    }
    if let (Some(x), Some(y)) = (a.downcast_object_ref::<Range>(), b.downcast_object_ref::<Range>()) {
        let (n, step) = (x.length(), x.length() < 2 || x.step == y.step);
        return n == y.length() && (n == 0 || x.start == y.start && step);
    }
    if let (Some(x), Some(y)) = (a.downcast_object_ref::<values::View>(), b.downcast_object_ref::<values::View>()) {
        return x.name == y.name && x.items.len() == y.items.len() && x.items.iter().zip(&y.items).all(|(x, y)| equal(x, y));
    }
    if let (Some(x), Some(y)) = (a.downcast_object_ref::<values::Method>(), b.downcast_object_ref::<values::Method>()) {
        return x.name == y.name && minijinja::tests::is_sameas(&x.of, &y.of);
    }
    if a.as_object().is_some() || b.as_object().is_some() {
        return minijinja::tests::is_sameas(a, b); // namespaces, macros: each is itself only
    }
    a.kind() == b.kind() && a == b
}

pub fn order(a: &Value, operator: &str, b: &Value) -> Result<Option<Ordering>, Error> {
    let Some(_level) = bounds::deeper() else { return bounds::check().map(|()| None) };
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return Ok(match (x, y) {
            (Number::Whole(x), Number::Whole(y)) => Some(x.cmp(&y)),
            (x, y) => float(x).partial_cmp(&float(y)),
        });
    }
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        return Ok(Some(x.cmp(y)));
    }
    if let (Some(x), Some(y), true) = (items(a), items(b), is_tuple(a) == is_tuple(b)) {
        if let Some((x, y)) = x.iter().zip(&y).find(|(x, y)| !equal(x, y)) {
            return order(x, operator, y);
        }
        return Ok(Some(x.len().cmp(&y.len())));
    }
    Err(bad(format!("'{operator}' not supported between instances of '{}' and '{}'", pytext::type_name(a), pytext::type_name(b))))
}

pub fn compare(a: &Value, operator: &str, b: &Value) -> Result<bool, Error> {
    bounds::check()?;
    let found = match operator {
        "==" => equal(a, b),
        "!=" => !equal(a, b),
        "in" => contains(b, a)?,
        "not in" => !contains(b, a)?,
        _ => match (order(a, operator, b)?, operator) {
            (None, _) => false, // NaN
            (Some(o), "<") => o.is_lt(),
            (Some(o), "<=") => o.is_le(),
            (Some(o), ">") => o.is_gt(),
            (Some(o), _) => o.is_ge(),
        },
    };
    if a.as_object().is_some() || b.as_object().is_some() {
        bounds::check()?; // it may have ended early
    }
    Ok(found)
}

/// `item in container`.
pub fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let part = item.as_str().ok_or_else(|| bad(format!("'in <string>' requires string as left operand, not {}", pytext::type_name(item))))?;
        return Ok(text.contains(part));
    }
    if values::is_dict(container) || container.downcast_object_ref::<values::View>().is_some_and(|view| view.name == "dict_keys") {
        values::key(item.clone())?;
    }
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => Ok(lists::iterate(container)?.any(|found| equal(&found, item))),
        _ => Err(bad(format!("argument of type '{}' is not iterable", pytext::type_name(container)))),
    }
}

/// `value[start:stop:step]`.
fn slice(v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let index = |i: usize| match args.get(i) {
        Some(v) if !v.is_none() => match number(v) {
            Some(Number::Whole(n)) => Ok(Some(n.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
            _ => Err(bad("slice indices must be integers or None")),
        },
        _ => Ok(None),
    };
    let (start, stop, step) = (index(0)?, index(1)?, index(2)?.unwrap_or(1));
    if step == 0 {
        return Err(bad("slice step cannot be zero"));
    }
    if let Some(text) = v.as_str() {
        bounds::make(text.len())?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(pytext::like(&v, places(chars.len(), start, stop, step).map(|i| chars[i]).collect::<String>()));
    }
    if let Some(range) = v.downcast_object_ref::<Range>() {
        let (first, last, step) = indices(range.length(), start, stop, step);
        return Ok(Value::from_object(range.part(first, last, step)));
    }
    bounds::make_list(v.len().unwrap_or(0))?;
    let list = items(&v).ok_or_else(|| bad(format!("'{}' object is not subscriptable", pytext::type_name(&v))))?;
    Ok(same_sequence(&v, places(list.len(), start, stop, step).map(|i| list[i].clone()).collect()))
}

/// What Python's slice.indices gives: the first index, that behind the last one, and the step.
fn indices(length: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> (i64, i64, i64) {
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |i: i64| if i < 0 { i.saturating_add(length).max(lowest) } else { i.min(highest) };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    (start.map_or(first, place), stop.map_or(last, place), step)
}

/// The indexes of a slice.
fn places(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let (start, stop, step) = indices(length as i64, start, stop, step);
    std::iter::successors(Some(start), move |i| i.checked_add(step))
        .take_while(move |i| if step > 0 { *i < stop } else { *i > stop })
        .map(|i| i as usize)
}
