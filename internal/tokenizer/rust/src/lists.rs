//! Jinja's filters over lists and dicts, where minijinja's differ.

use crate::operators::equal;
use crate::sequences::{generator, Generator};
use crate::values::{is_dict, is_tuple, tuple, Group};
use crate::{bounds, operators, pytext, values};
use minijinja::value::{Kwargs, Rest, ValueIter, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::cmp::Ordering;
use std::collections::HashSet;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    for name in ["length", "count"] {
        bounds::filter(env, name, |v: Value| match v.len() {
            Some(n) => Ok(n),
            None if v.is_undefined() => Ok(0),
            None => Err(bad(format!("object of type '{}' has no len()", pytext::type_name(&v)))),
        });
    }
    bounds::filter(env, "list", |v: Value| list(&v).map(Value::from));
    bounds::filter(env, "first", |v: Value| -> Result<Value, Error> { Ok(iterate(&v)?.next().unwrap_or_default()) });
    bounds::filter(env, "last", |v: Value| -> Result<Value, Error> {
        if v.downcast_object_ref::<Generator>().is_some() {
            return Err(bad("'generator' object is not reversible"));
        }
        Ok(list(&v)?.last().cloned().unwrap_or_default())
    });
    bounds::filter(env, "reverse", |v: Value| -> Result<Value, Error> {
        match v.as_str() {
            Some(text) => Ok(pytext::like(&v, text.chars().rev().collect::<String>())),
            None if v.downcast_object_ref::<Generator>().is_some() => Ok(list(&v)?.into_iter().rev().collect()),
            None => Ok(generator(list(&v)?.into_iter().rev())),
        }
    });
    bounds::filter(env, "items", |v: Value| -> Result<Value, Error> {
        match v.kind() {
            ValueKind::Undefined => Ok(generator([])),
            _ if is_dict(&v) => Ok(generator(pairs(&v)?.into_iter().map(|(k, v)| tuple(vec![k, v])))),
            _ => Err(bad("Can only get item pairs from a mapping.")),
        }
    });
    bounds::filter(env, "batch", batch);
    bounds::filter(env, "slice", slice);
    bounds::filter(env, "sort", sort);
    bounds::filter(env, "unique", unique);
    bounds::filter(env, "min", |v: Value, case: bool, path: Value| extreme(&v, false, case, &path));
    bounds::filter(env, "max", |v: Value, case: bool, path: Value| extreme(&v, true, case, &path));
    bounds::filter(env, "dictsort", dict_sort);
    bounds::filter(env, "xmlattr", xml_attributes);
    bounds::filter(env, "groupby", group_by);
    bounds::filter(env, "sum", |v: Value, path: Value, start: Value| -> Result<Value, Error> {
        let mut sum = start;
        for item in list(&v)? {
            sum = operators::compute(&sum, "+", &named(&item, &path)?)?;
        }
        Ok(sum)
    });
}

/// What can be gone through.
pub fn iterate(v: &Value) -> Result<ValueIter, Error> {
    match v.kind() {
        ValueKind::Map if !is_dict(v) => {}
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => return v.try_iter(),
        _ => {}
    }
    Err(bad(format!("'{}' object is not iterable", pytext::type_name(v))))
}

/// What can be gone through, as a list.
pub fn list(v: &Value) -> Result<Vec<Value>, Error> {
    let items = iterate(v)?;
    // A text has at most as many characters as bytes.
    bounds::make_list(v.as_str().map_or_else(|| v.len().unwrap_or(0), str::len))?;
    Ok(items.collect())
}

fn pairs(v: &Value) -> Result<Vec<(Value, Value)>, Error> {
    bounds::make_list(2 * v.len().unwrap_or(0))?;
    v.try_iter()?.map(|k| Ok((k.clone(), v.get_item(&k)?))).collect()
}

/// `a.b.0` of a value, or the item that a number names; a default for what is not defined.
pub fn attribute_or(v: &Value, path: &Value, default: Option<&Value>) -> Result<Value, Error> {
    let found = |item: Value| match default {
        Some(default) if item.is_undefined() => default.clone(),
        _ => item,
    };
    let Some(names) = path.as_str() else { return values::item(v, path).map(found) };
    let mut v = v.clone();
    for name in names.split('.') {
        let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        let key = name.parse::<usize>().ok().filter(|_| digits).map_or_else(|| Value::from(name), Value::from);
        v = found(values::item(&v, &key)?);
    }
    Ok(v)
}

/// An attribute of an item, or the item where none is named.
pub fn named(v: &Value, path: &Value) -> Result<Value, Error> {
    if path.is_none() {
        return Ok(v.clone());
    }
    attribute_or(v, path, None)
}

fn batch(v: Value, count: Value, fill: Value) -> Result<Value, Error> {
    // Rows have so many items; what is no number is never so many.
    let number = operators::canonical(&count);
    let count = number.as_ref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
    let (mut out, mut row): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for item in list(&v)? {
        if row.len() as i64 == count {
            out.push(std::mem::take(&mut row).into());
        }
        row.push(item);
    }
    if !row.is_empty() {
        if !fill.is_none() {
            if number.is_none() {
                return Err(bad("batch: linecount is no number"));
            }
            let missing = count.saturating_sub(row.len() as i64).max(0) as usize;
            bounds::make_list(missing)?;
            row.extend(std::iter::repeat_n(fill, missing));
        }
        out.push(row.into());
    }
    Ok(generator(out))
}

fn slice(v: Value, count: i64, fill: Value) -> Result<Value, Error> {
    let items = list(&v)?;
    if count == 0 {
        return Err(bad("integer division or modulo by zero"));
    }
    let rows = count.max(0) as usize;
    bounds::make_list(2 * rows)?;
    let (each, longer) = (items.len() / rows.max(1), items.len() % rows.max(1));
    let mut rest = items.into_iter();
    let row = |i: usize| {
        let mut row: Vec<Value> = rest.by_ref().take(each + usize::from(i < longer)).collect();
        if !fill.is_none() && i >= longer {
            row.push(fill.clone());
        }
        Value::from(row)
    };
    Ok(generator((0..rows).map(row).collect::<Vec<_>>()))
}

/// A text without its case, unless it counts.
fn sort_key(v: &Value, case_sensitive: bool) -> Result<Value, Error> {
    match v.as_str() {
        Some(text) if !case_sensitive => {
            bounds::make(text.len())?;
            Ok(Value::from(text.to_lowercase()))
        }
        _ => Ok(v.clone()),
    }
}

/// `a < b`; no for numbers that are none.
fn less(a: &Value, b: &Value) -> Result<bool, Error> {
    Ok(operators::order(a, "<", b)?.is_some_and(Ordering::is_lt))
}

/// The same for values that are in lists, of which equal ones need no order.
fn less_in_list(a: &Value, b: &Value) -> Result<bool, Error> {
    Ok(!equal(a, b) && less(a, b)?)
}

/// Sorts by keys, equal ones as they come, and refuses those that have no order. It ends at the first error, which the library's own sorting
/// cannot.
fn sort_by_key<T>(items: Vec<T>, less: fn(&Value, &Value) -> Result<bool, Error>, key: impl Fn(&T) -> Result<Value, Error>) -> Result<Vec<T>, Error> {
    bounds::make_list(2 * items.len())?;
    let keyed = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Result<Vec<_>, Error>>()?;
    let sorted = merge_sort(keyed, less)?;
    bounds::check()?; // comparisons end early when it is over
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

fn merge_sort<T>(mut left: Vec<(Value, T)>, less: fn(&Value, &Value) -> Result<bool, Error>) -> Result<Vec<(Value, T)>, Error> {
    if left.len() < 2 {
        return Ok(left);
    }
    let right = merge_sort(left.split_off(left.len() / 2), less)?;
    let (mut left, mut right) = (merge_sort(left, less)?.into_iter().peekable(), right.into_iter().peekable());
    let mut out = Vec::with_capacity(left.len() + right.len());
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        out.extend(if less(b, a)? { right.next() } else { left.next() });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// The value of an item that filters go by: itself or an attribute, texts without their case unless it counts.
fn value_of(item: &Value, path: &Value, case_sensitive: bool) -> Result<Value, Error> {
    sort_key(&named(item, path)?, case_sensitive)
}

fn sort(v: Value, reverse: bool, case_sensitive: bool, path: Value) -> Result<Value, Error> {
    let mut items = list(&v)?;
    if reverse {
        items.reverse(); // so that equal ones keep their order when all are turned round
    }
    // Several attributes may be named, with commas.
    let paths: Vec<Value> = match path.as_str() {
        Some(names) if names.contains(',') => names.split(',').map(Value::from).collect(),
        _ => Vec::new(),
    };
    items = sort_by_key(items, less_in_list, |item| match &paths[..] {
        [] => value_of(item, &path, case_sensitive),
        paths => paths.iter().map(|path| value_of(item, path, case_sensitive)).collect(),
    })?;
    if reverse {
        items.reverse();
    }
    Ok(Value::from(items))
}

/// `min` and `max`: the first of the least or greatest values.
fn extreme(v: &Value, greatest: bool, case_sensitive: bool, path: &Value) -> Result<Value, Error> {
    let mut best: Option<(Value, Value)> = None;
    for item in list(v)? {
        let value = value_of(&item, path, case_sensitive)?;
        let better = match &best {
            None => true,
            Some((best, _)) if greatest => less(best, &value)?,
            Some((best, _)) => less(&value, best)?,
        };
        if better {
            best = Some((value, item));
        }
    }
    bounds::check()?;
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn unique(v: Value, case_sensitive: bool, path: Value) -> Result<Value, Error> {
    let (mut seen, mut out) = (HashSet::new(), Vec::new());
    for item in list(&v)? {
        let value = values::key(value_of(&item, &path, case_sensitive)?)?;
        let mut text = String::new();
        write_key(&value, &mut text)?;
        if seen.insert(text) {
            out.push(item);
        }
    }
    Ok(generator(out))
}

/// A key as a text that is the same for equal ones.
fn write_key(v: &Value, out: &mut String) -> Result<(), Error> {
    if is_tuple(v) {
        out.push('(');
        for item in v.try_iter()? {
            write_key(&item, out)?;
            out.push(',');
        }
        out.push(')');
        return Ok(());
    }
    let part = operators::canonical(v).unwrap_or_else(|| pytext::repr(v)); // texts in quotes
    bounds::grow(out.len(), part.len())?;
    out.push_str(&part);
    Ok(())
}

pub fn dict(args: Rest<Value>) -> Result<Value, Error> {
    let (values, more): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let mut out: Vec<(Value, Value)> = match values {
        [] => Vec::new(),
        [v] if v.is_undefined() => return Err(bad("a value is undefined")),
        [v] if is_dict(v) => pairs(v)?,
        [v] => {
            let pair = |item: Value| match &list(&item)?[..] {
                [k, v] => Ok((values::key(k.clone())?, v.clone())),
                _ => Err(bad("dict: a sequence of pairs is needed")),
            };
            list(v)?.into_iter().map(pair).collect::<Result<_, Error>>()?
        }
        _ => return Err(bad("dict expected at most 1 argument")),
    };
    for name in more.args() {
        out.push((Value::from(name), more.get(name)?));
    }
    Ok(out.into_iter().collect())
}

fn dict_sort(v: Value, case_sensitive: bool, by: String, reverse: bool) -> Result<Value, Error> {
    if !is_dict(&v) {
        return Err(bad(format!("'{}' object has no attribute 'items'", pytext::type_name(&v))));
    }
    let by_value = match &by[..] {
        "key" => false,
        "value" => true,
        _ => return Err(bad("You can only sort by either \"key\" or \"value\"")),
    };
    let mut items = pairs(&v)?;
    if reverse {
        items.reverse(); // so that equal ones keep their order when all are turned round
    }
    items = sort_by_key(items, less, |(k, v)| sort_key(if by_value { v } else { k }, case_sensitive))?;
    if reverse {
        items.reverse();
    }
    Ok(items.into_iter().map(|(k, v)| tuple(vec![k, v])).collect())
}

fn group_by(v: Value, path: Value, default: Value, case_sensitive: bool) -> Result<Value, Error> {
    let default = Some(default).filter(|v| !v.is_none());
    let mut items = Vec::new();
    for item in list(&v)? {
        items.push((attribute_or(&item, &path, default.as_ref())?, item));
    }
    if items.len() > 1 {
        items = sort_by_key(items, less, |(key, _)| sort_key(key, case_sensitive))?;
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in items {
        match groups.last_mut() {
            Some((last, group)) if equal(&sort_key(last, case_sensitive)?, &sort_key(&key, case_sensitive)?) => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    Ok(groups.into_iter().map(|(key, group)| Value::from_object(Group(key, Value::from(group)))).collect())
}

/// `name="value"` of a dict's values that are there.
fn xml_attributes(v: Value, autospace: bool) -> Result<String, Error> {
    if !is_dict(&v) {
        return Err(bad(format!("'{}' object has no attribute 'items'", pytext::type_name(&v))));
    }
    let escaped = |v: &Value| if v.is_safe() { pytext::str(v) } else { pytext::escape(&pytext::str(v)) };
    let (mut parts, mut length) = (Vec::new(), 0);
    for key in v.try_iter()? {
        let value = v.get_item(&key)?;
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = key.as_str().ok_or_else(|| bad(format!("expected string, got '{}'", pytext::type_name(&key))))?;
        if name.contains(|c: char| matches!(c, ' ' | '\t'..='\r' | '/' | '>' | '=')) {
            return Err(bad(format!("Invalid character in attribute name: {}", pytext::repr(&key))));
        }
        let part = format!("{}=\"{}\"", escaped(&key), escaped(&value));
        bounds::grow(length, part.len() + 1)?;
        length += part.len() + 1;
        parts.push(part);
    }
    Ok(if autospace && !parts.is_empty() { " " } else { "" }.to_owned() + &parts.join(" "))
}
