//! Jinja's filters over lists and dicts, where minijinja's differ.

use crate::operators::equal;
use crate::values::{is_dict, is_tuple, tuple, Group};
use crate::{bounds, operators, pytext, values};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::cmp::Ordering;
use std::collections::HashSet;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    bounds::function(env, "dict", dict);
    for name in ["length", "count"] {
        bounds::filter(env, name, |v: Value| match v.len() {
            Some(n) => Ok(n),
            None if v.is_undefined() => Ok(0),
            None => Err(bad(format!("object of type '{}' has no len()", pytext::type_name(&v)))),
        });
    }
    bounds::filter(env, "first", |v: Value| -> Result<Value, Error> { Ok(list(&v)?.first().cloned().unwrap_or_default()) });
    bounds::filter(env, "last", |v: Value| -> Result<Value, Error> { Ok(list(&v)?.last().cloned().unwrap_or_default()) });
    bounds::filter(env, "reverse", |v: Value| -> Result<Value, Error> {
        match v.as_str() {
            Some(text) => Ok(Value::from(text.chars().rev().collect::<String>())),
            None => Ok(list(&v)?.into_iter().rev().collect()),
        }
    });
    bounds::filter(env, "items", |v: Value| -> Result<Value, Error> {
        match v.kind() {
            ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
            _ if is_dict(&v) => Ok(pairs(&v)?.into_iter().map(|(k, v)| tuple(vec![k, v])).collect()),
            _ => Err(bad("Can only get item pairs from a mapping.")),
        }
    });
    bounds::filter(env, "sort", sort);
    bounds::filter(env, "unique", unique);
    bounds::filter(env, "min", |v: Value, case: Option<bool>, path: Option<Value>, kwargs: Kwargs| extreme(&v, false, case, path, &kwargs));
    bounds::filter(env, "max", |v: Value, case: Option<bool>, path: Option<Value>, kwargs: Kwargs| extreme(&v, true, case, path, &kwargs));
    bounds::filter(env, "dictsort", dict_sort);
    bounds::filter(env, "xmlattr", xml_attributes);
    bounds::filter(env, "groupby", group_by);
    bounds::filter(env, "sum", |v: Value, attribute: Option<Value>, start: Option<Value>, kwargs: Kwargs| -> Result<Value, Error> {
        let path = attribute.or(kwargs.get("attribute")?).filter(|v| !v.is_none());
        let mut sum = start.or(kwargs.get("start")?).unwrap_or_else(|| Value::from(0));
        kwargs.assert_all_used()?;
        for item in list(&v)? {
            let item = match &path {
                Some(path) => self::attribute(&item, path)?,
                None => item,
            };
            sum = operators::compute(&sum, "+", &item)?;
        }
        Ok(sum)
    });
}

/// What can be gone through, as a list.
fn list(v: &Value) -> Result<Vec<Value>, Error> {
    match v.kind() {
        ValueKind::None => Err(bad("'NoneType' object is not iterable")),
        _ => {
            // A text has at most as many characters as bytes.
            bounds::make_list(v.as_str().map_or_else(|| v.len().unwrap_or(0), str::len))?;
            Ok(v.try_iter()?.collect())
        }
    }
}

fn pairs(v: &Value) -> Result<Vec<(Value, Value)>, Error> {
    bounds::make_list(2 * v.len().unwrap_or(0))?;
    v.try_iter()?.map(|k| Ok((k.clone(), v.get_item(&k)?))).collect()
}

/// `a.b.0` of a value, or the item that a number names.
pub fn attribute(v: &Value, path: &Value) -> Result<Value, Error> {
    let Some(names) = path.as_str() else { return v.get_item(&values::index(path.clone())?) };
    let mut v = v.clone();
    for name in names.split('.') {
        v = match name.parse::<usize>() {
            Ok(index) => v.get_item(&Value::from(index))?,
            Err(_) => v.get_attr(name)?,
        };
    }
    Ok(v)
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
fn value_of(item: &Value, path: Option<&Value>, case_sensitive: bool) -> Result<Value, Error> {
    sort_key(&path.map_or_else(|| Ok(item.clone()), |path| attribute(item, path))?, case_sensitive)
}

fn sort(v: Value, reverse: Option<bool>, case_sensitive: Option<bool>, path: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let reverse = reverse.or(kwargs.get("reverse")?).unwrap_or(false);
    let case_sensitive = case_sensitive.or(kwargs.get("case_sensitive")?).unwrap_or(false);
    let path = path.or(kwargs.get("attribute")?).filter(|v| !v.is_none());
    kwargs.assert_all_used()?;
    let mut items = list(&v)?;
    if reverse {
        items.reverse(); // so that equal ones keep their order when all are turned round
    }
    // Several attributes may be named, with commas.
    let paths: Vec<Value> = match path.as_ref().and_then(Value::as_str) {
        Some(names) if names.contains(',') => names.split(',').map(Value::from).collect(),
        _ => Vec::new(),
    };
    items = sort_by_key(items, less_in_list, |item| match &paths[..] {
        [] => value_of(item, path.as_ref(), case_sensitive),
        paths => paths.iter().map(|path| value_of(item, Some(path), case_sensitive)).collect(),
    })?;
    if reverse {
        items.reverse();
    }
    Ok(Value::from(items))
}

/// `min` and `max`: the first of the least or greatest values.
fn extreme(v: &Value, greatest: bool, case_sensitive: Option<bool>, path: Option<Value>, kwargs: &Kwargs) -> Result<Value, Error> {
    let case_sensitive = case_sensitive.or(kwargs.get("case_sensitive")?).unwrap_or(false);
    let path = path.or(kwargs.get("attribute")?).filter(|v| !v.is_none());
    kwargs.assert_all_used()?;
    let mut best: Option<(Value, Value)> = None;
    for item in list(v)? {
        let value = value_of(&item, path.as_ref(), case_sensitive)?;
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

fn unique(v: Value, case_sensitive: Option<bool>, path: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let case_sensitive = case_sensitive.or(kwargs.get("case_sensitive")?).unwrap_or(false);
    let path = path.or(kwargs.get("attribute")?).filter(|v| !v.is_none());
    kwargs.assert_all_used()?;
    let (mut seen, mut out) = (HashSet::new(), Vec::new());
    for item in list(&v)? {
        let value = values::key(value_of(&item, path.as_ref(), case_sensitive)?)?;
        let mut text = String::new();
        write_key(&value, &mut text)?;
        if seen.insert(text) {
            out.push(item);
        }
    }
    Ok(Value::from(out))
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

fn dict(value: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let mut out: Vec<(Value, Value)> = match value {
        None => Vec::new(),
        Some(v) if is_dict(&v) => pairs(&v)?,
        Some(v) => {
            let pair = |item: Value| match &list(&item)?[..] {
                [k, v] => Ok((values::key(k.clone())?, v.clone())),
                _ => Err(bad("dict: a sequence of pairs is needed")),
            };
            list(&v)?.into_iter().map(pair).collect::<Result<_, Error>>()?
        }
    };
    for name in more.args() {
        out.push((Value::from(name), more.get(name)?));
    }
    Ok(out.into_iter().collect())
}

fn dict_sort(v: Value, case_sensitive: Option<bool>, by: Option<String>, reverse: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let case_sensitive = case_sensitive.or(kwargs.get("case_sensitive")?).unwrap_or(false);
    let by = by.or(kwargs.get("by")?).unwrap_or_else(|| "key".into());
    let reverse = reverse.or(kwargs.get("reverse")?).unwrap_or(false);
    kwargs.assert_all_used()?;
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

fn group_by(v: Value, path: Value, default: Option<Value>, case_sensitive: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?);
    let case_sensitive = case_sensitive.or(kwargs.get("case_sensitive")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut items = Vec::new();
    for item in list(&v)? {
        let key = attribute(&item, &path)?;
        let key = if key.is_undefined() { default.clone().unwrap_or(key) } else { key };
        items.push((key, item));
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
fn xml_attributes(v: Value, autospace: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    let autospace = autospace.or(kwargs.get("autospace")?).unwrap_or(true);
    kwargs.assert_all_used()?;
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
