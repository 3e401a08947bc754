//! Jinja's filters over lists and dicts, where minijinja's differ.

use crate::operators::equal;
use crate::values::{is_dict, tuple, Group};
use crate::{bounds, operators, pytext};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::cmp::Ordering;

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
    bounds::filter(env, "dictsort", dict_sort);
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
    let Some(names) = path.as_str() else { return v.get_item(path) };
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
fn sort_key(v: &Value, case_sensitive: bool) -> Value {
    match v.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => v.clone(),
    }
}

/// Sorts by keys, and refuses those that have no order.
fn sort_by_key<T>(items: &mut [T], key: impl Fn(&T) -> Value) -> Result<(), Error> {
    let mut failed = None;
    items.sort_by(|a, b| match operators::order(&key(a), "<", &key(b)) {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(e) => {
            failed = Some(e);
            Ordering::Equal
        }
    });
    bounds::check()?;
    failed.map_or(Ok(()), Err)
}

fn dict(value: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let mut out: Vec<(Value, Value)> = match value {
        None => Vec::new(),
        Some(v) if is_dict(&v) => pairs(&v)?,
        Some(v) => {
            let pair = |item: Value| match &list(&item)?[..] {
                [k, v] => Ok((k.clone(), v.clone())),
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
    sort_by_key(&mut items, |(k, v)| sort_key(if by_value { v } else { k }, case_sensitive))?;
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
        sort_by_key(&mut items, |(key, _)| sort_key(key, case_sensitive))?;
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in items {
        match groups.last_mut() {
            Some((last, group)) if equal(&sort_key(last, case_sensitive), &sort_key(&key, case_sensitive)) => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    Ok(groups.into_iter().map(|(key, group)| Value::from_object(Group(key, Value::from(group)))).collect())
}
